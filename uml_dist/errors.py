"""The error that users of the trainer can fix themselves."""

from uml_shards.text import message_of


class UmlError(ValueError):
    """A configuration, checkpoint or environment is not as it must be.

    The message is one line: what is wrong, where, and what to do. It is made printable and shortened if necessary.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message_of(message))
