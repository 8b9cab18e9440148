"""Ends a rank when its launcher is gone, which could no longer end it: two trainings would share a run folder."""

import os
import sys
import time
from collections.abc import Callable
from threading import Thread

import psutil

LAUNCHER = "UML_WORLD_LAUNCHER"
"""Environment variable with the process id of our own launcher, which may end before its ranks look for it."""

SECONDS = 1.0
"""Time between two looks at the launchers."""


def launchers_of(process: psutil.Process, script: str) -> list[psutil.Process]:
    """Return the ancestors of a rank that have the script among their arguments, the nearest first.

    A shell or a scheduler that started the launcher is not one of them: it may end while the training goes on.
    """
    found = []
    for ancestor in process.parents():
        try:
            if script not in ancestor.cmdline()[1:]:
                break
        except psutil.Error:
            break
        found.append(ancestor)
    return found


def watch_launchers(ended: Callable[[str], None], script: str | None = None) -> None:
    """Watch the launchers of this rank in another thread.

    Args:
        ended: called once with a line for the user when one of them has ended.
        script: the script that they started; by default that of this process.
    """
    launchers = launchers_of(psutil.Process(os.getpid()), sys.argv[0] if script is None else script)
    ours = os.environ.get(LAUNCHER, "")
    early = [ours] if ours.isdecimal() and int(ours) not in [launcher.pid for launcher in launchers] else []

    def watch() -> None:
        while not early and all(map(_lives, launchers)):
            time.sleep(SECONDS)
        gone = early or [launcher.pid for launcher in launchers if not _lives(launcher)]
        ended(f"the launcher (process {gone[0]}) has ended")

    if launchers or early:
        Thread(target=watch, name="launchers", daemon=True).start()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
