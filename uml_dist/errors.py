"""The error that users of the trainer can fix themselves, and the guard around what others have written."""

from collections.abc import Iterator
from contextlib import contextmanager

from uml_shards.errors import reason_of
from uml_shards.text import message_of


class UmlError(ValueError):
    """A configuration, checkpoint or environment is not as it must be.

    The message is one line: what is wrong, where, and what to do. It is made printable and shortened if necessary.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message_of(message))


CORRUPT = 76
"""Exit code of a training whose weights were damaged."""


class CorruptionError(UmlError):
    """The weights differ between ranks, which have computed the same: a machine is faulty."""


@contextmanager
def refusing(problem: str, remedy: str = "", kind: type[UmlError] = UmlError) -> Iterator[None]:
    """Report any error of a library on the contents of a file as one line: "PROBLEM: reason: REMEDY".

    Raises:
        UmlError: of the kind given; errors that are a `UmlError` already are not changed.
    """
    try:
        yield
    except UmlError:
        raise
    except Exception as error:
        raise kind(": ".join(part for part in (problem, reason_of(error), remedy) if part)) from error
