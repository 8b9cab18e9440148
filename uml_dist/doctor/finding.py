"""What one check of the doctor found, and how a check is asked so that it can neither fail nor hang."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Literal

logger = logging.getLogger(__name__)

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """The answer of one check. `ok`, `note` and `problem` make them.

    Attributes:
        name: what is checked.
        state: ok, note (training works, and this is worth knowing) or problem (training would fail).
        says: what was found, one line.
        todo: what to do about it, one line; empty where there is nothing to do, never empty for a problem.
    """

    name: str
    state: State
    says: str
    todo: str = ""


def ok(name: str, says: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", _line(says))


def note(name: str, says: str, todo: str = "") -> Finding:
    """Training works; the user may want to know."""
    return Finding(name, "note", _line(says), _line(todo))


def problem(name: str, says: str, todo: str) -> Finding:
    """Training would fail until the user does something."""
    return Finding(name, "problem", _line(says), _line(todo))


def answer(name: str, check: Callable[[], Finding], seconds: float | None = 3) -> Finding:
    """Ask a check. What it cannot find out is a note that says so.

    Args:
        name: what is checked, should the check not come to an answer.
        check: called in a thread, which is left behind where a name server or a network disk does not answer.
        seconds: how long it may take; None for as long as it wants.
    """
    found: list[Finding] = []

    def ask() -> None:
        try:
            found.append(check())
        except Exception as error:
            logger.debug("%s could not be found out", name, exc_info=True)
            found.append(note(name, f"could not be found out: {type(error).__name__}: {error}"))

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else note(name, f"could not be found out: no answer within {seconds:g} s")


def _line(text: str) -> str:
    """Messages of others may have several lines."""
    return " ".join(text.split())
