"""The result of one check, and a runner that no failing or hanging check can stop."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Literal

logger = logging.getLogger(__name__)

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check, created by `ok`, `note` and `problem`.

    Attributes:
        name: name of the check.
        state: ok, note (training works, but this is worth knowing) or problem (training would fail).
        message: the finding in one line.
        remedy: the action to take, in one line; empty if none is needed, never empty for a problem.
    """

    name: str
    state: State
    message: str
    remedy: str = ""


def ok(name: str, message: str) -> Finding:
    """Report that the check passed."""
    return Finding(name, "ok", _line(message))


def note(name: str, message: str, remedy: str = "") -> Finding:
    """Report something worth knowing; training works."""
    return Finding(name, "note", _line(message), _line(remedy))


def problem(name: str, message: str, remedy: str) -> Finding:
    """Report that training would fail until the user applies the remedy."""
    return Finding(name, "problem", _line(message), _line(remedy))


def run_check(name: str, check: Callable[[], Finding], seconds: float | None = 3) -> Finding:
    """Run a check; if it fails or takes too long, return a note about that.

    Args:
        name: name of the check, used if the check returns no finding.
        check: called in a thread, which is abandoned if, for example, a name server or a network disk does not respond.
        seconds: time limit; None for no limit.
    """
    found: list[Finding] = []

    def run() -> None:
        try:
            found.append(check())
        except Exception as error:
            logger.debug("%s could not be checked", name, exc_info=True)
            found.append(note(name, f"could not be checked: {type(error).__name__}: {error}"))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else note(name, f"could not be checked: no answer within {seconds:g} s")


def _line(text: str) -> str:
    """Join the lines of a message; messages of other libraries may have several."""
    return " ".join(text.split())
