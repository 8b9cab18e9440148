"""Notes in a run folder that its training was killed, which could not record that itself."""

from contextlib import suppress
from pathlib import Path

from ..errors import UmlError
from .folder import RunFolder
from .owner import ended_owner, owned
from .reader import read_status


def note_death(run: Path) -> str | None:
    """Record in status.json that the process of a training has ended without recording why.

    Returns:
        A line for the user; None if the training has not begun, lives, or has recorded its end.
    """
    try:
        status = read_status(run)
    except (OSError, ValueError):
        return None
    process = ended_owner(run)
    if status is None or process is None or status.get("status") != "running":
        return None
    reason, step = f"process {process} has ended without a word: it was probably killed", status.get("step", 0)
    with suppress(UmlError), owned(run):  # unless another process resumes the run now, or the folder is read-only
        RunFolder(run, writes=True).write_status("failed", step, reason)
    return f"run {run}: {reason}, after step {step}"
