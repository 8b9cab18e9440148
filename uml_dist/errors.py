"""The error that users of the trainer can fix themselves."""


class UmlError(ValueError):
    """A configuration, checkpoint or environment is not as it must be.

    The message is one line: what is wrong, where, and what to do.
    """
