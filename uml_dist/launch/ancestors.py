"""Ends a rank when its launcher is gone, which could no longer end it: two trainings would share a run folder."""

import os
import sys
import time
from collections.abc import Callable, MutableMapping
from threading import Thread

import psutil

from ..errors import UmlError

LAUNCHERS = "UML_WORLD_LAUNCHERS"
"""Environment variable with the process ids of launchers, which may end before their ranks look for them."""

LAUNCHER = "deepspeed.launcher.launch"
"""The module of DeepSpeed's launcher, which its front end starts on each machine."""

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


def remember_launchers(environment: MutableMapping[str, str], script: str) -> None:
    """Write the launchers of this process into an environment of ranks, instead of those that it may have.

    Raises:
        UmlError: one of them has ended.
    """
    this = psutil.Process()
    launchers = launchers_of(this, script)
    if _is_orphan([this, *launchers][-1]):
        raise UmlError("the launcher has ended: repeat the command")
    environment[LAUNCHERS] = ",".join(str(launcher.pid) for launcher in launchers)


def remember_this_launcher() -> None:
    """Write this process, which launches ranks, into its environment."""
    known = [word for word in os.environ.get(LAUNCHERS, "").split(",") if word]
    os.environ[LAUNCHERS] = ",".join(dict.fromkeys([*known, str(os.getpid())]))


def watch_launchers(ended: Callable[[str], None], script: str | None = None) -> None:
    """Watch the launchers of this rank in another thread.

    Args:
        ended: called once with a line for the user when one of them has ended.
        script: the script that they started; by default that of this process.
    """
    this = psutil.Process()
    launchers = launchers_of(this, sys.argv[0] if script is None else script)
    found = {launcher.pid for launcher in launchers}
    remembered = [int(word) for word in os.environ.get(LAUNCHERS, "").split(",") if word.isdecimal()]
    early = [f"the launcher (process {number}) has ended" for number in remembered if number not in found]
    if _is_orphan([this, *launchers][-1]):
        early.append("the launcher has ended")

    def watch() -> None:
        while not early and all(map(_lives, launchers)):
            time.sleep(SECONDS)
        gone = [f"the launcher (process {launcher.pid}) has ended" for launcher in launchers if not _lives(launcher)]
        ended([*early, *gone][0])

    if launchers or early:
        Thread(target=watch, name="launchers", daemon=True).start()


def _is_orphan(process: psutil.Process) -> bool:
    """Whether DeepSpeed's front end or its launcher has started a process, and has ended since.

    Process 1 has adopted such a process, which has an argument that a user hardly writes.
    """
    try:
        words = process.cmdline()
        passed = "--enable_each_rank_log=" if LAUNCHER in words else "--local_rank="
        return process.ppid() == 1 and any(word.startswith(passed) for word in words)
    except psutil.Error:
        return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
