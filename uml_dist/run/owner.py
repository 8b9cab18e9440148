"""The owner of a run folder: at most one training writes into it.

    runs/isic/.lock     locked while the training runs; the system releases the lock when the process ends, however
              .owner    host, process and start of the training, and a number that it increases every few seconds

The lock decides among the processes of a machine. Some network file systems do not pass locks on to other machines;
there the number shows whether the owner is alive, without comparing the clocks of the machines.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from uml_shards.lock import lock_file

from ..errors import UmlError

LOCK, OWNER = ".lock", ".owner"

BEAT_SECONDS = 5.0
"""Time between two increases of the owner's number."""

LEASE_SECONDS = 30.0
"""After this time without an increase, an owner on another machine is dead."""

LOCK_SECONDS = 3.0
"""How long to wait for the lock: the ranks of a killed launcher hold it until they notice."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Error codes of file systems without locks."""


class Owner:
    """Holds a run folder until it is released, or the process ends.

    Args:
        run: the run folder, which is created if necessary.
        lost: called in another thread with a line for the user if another training has taken the folder over, because
            this machine did not run for a while.
        say: called with a line for the user before waiting for the owner on another machine.

    Raises:
        UmlError: another training owns the folder, or it cannot be written.
    """

    def __init__(
        self, run: Path, lost: Callable[[str], None] | None = None, say: Callable[[str], object] | None = None
    ) -> None:
        self._run = run
        self._lost = lost
        self._record = {"host": socket.gethostname(), "process": os.getpid(), "started": time.time(), "boot": _boot()}
        self._beat = 0
        self._ended = Event()
        self._made = not run.exists()
        self._replaced = False
        self._descriptor = _lock(run)
        # A forked loader worker must not keep the lock longer than its rank.
        os.register_at_fork(after_in_child=self._close)
        try:
            self._wait_for_others(say)
            self._write()
        except BaseException:
            self._close()
            raise
        self._thread = Thread(target=self._keep, name="owner", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let other trainings use the folder."""
        self._ended.set()
        self._thread.join(1.0)  # it may be writing
        if not self._replaced and self._is_mine():
            with suppress(OSError):
                (self._run / OWNER).unlink(missing_ok=True)
                (self._run / LOCK).unlink(missing_ok=True)
                if self._made:
                    self._run.rmdir()  # nothing has been written
        self._close()

    def _wait_for_others(self, say: Callable[[str], object] | None) -> None:
        """Return when no other machine can own the folder.

        Raises:
            UmlError: another machine owns it.
        """
        other = _read(self._run)
        if not other or (self._descriptor is not None and other.get("boot") == self._record["boot"]):
            return  # the lock has decided
        if say:
            say(f"run folder {self._run}: checking for {LEASE_SECONDS:.0f} s whether {_name(other)} still writes to it")
        deadline = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, LEASE_SECONDS / 10))
            if not (self._run / OWNER).exists():
                return
            if _read(self._run) not in (other, {}):  # it is empty while it is being rewritten
                raise _refusal(self._run, other)

    def _keep(self) -> None:
        """Increase the number until the folder is released."""
        while not self._ended.wait(BEAT_SECONDS):
            if not self._is_mine():
                self._replaced = True
                if self._lost:
                    self._lost(f"run folder {self._run} now belongs to {_name(_read(self._run))}: this training ends")
                return
            with suppress(UmlError):  # the disk may be full or away for a while
                self._write()

    def _is_mine(self) -> bool:
        """Whether no other owner is recorded."""
        found = _read(self._run)
        return not found or all(found.get(key) == value for key, value in self._record.items())

    def _write(self) -> None:
        # In place and not by renaming a new file: other machines see the new content as soon as they open the file, and
        # a full disk has room for it.
        self._beat += 1
        text = json.dumps({**self._record, "beat": self._beat}) + "\n"
        try:
            descriptor = os.open(self._run / OWNER, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, text.encode())
                os.ftruncate(descriptor, len(text))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unusable(self._run, error) from None

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def owned(run: Path) -> Iterator[None]:
    """Own an existing run folder for a while.

    Raises:
        UmlError: a training owns it, or it cannot be written.
    """
    owner = Owner(run)
    try:
        yield
    finally:
        owner.release()


def refuse_owned(run: Path) -> None:
    """Check that no training on this machine owns a run folder, before anything is started.

    Raises:
        UmlError: one does.
    """
    if (run / LOCK).exists() and (descriptor := _lock(run)) is not None:
        os.close(descriptor)


def ended_owner(run: Path) -> int | None:
    """Return the process that has owned a run folder and ended without a word, such as one that was killed.

    Returns:
        Its process id; None if there is no such process, or if it may live: on another machine, or on this one before
        it was restarted, which looks the same.
    """
    found = _read(run)
    number = found.get("process")
    if not isinstance(number, int) or found.get("boot") != _boot() or not (run / LOCK).exists():
        return None
    try:
        descriptor = lock_file(run / LOCK, 0.0)
    except OSError:
        return None
    if descriptor is None:
        return None
    os.close(descriptor)
    return number


def _lock(run: Path) -> int | None:
    """Lock a run folder; return the descriptor, or None if its file system has no locks.

    Raises:
        UmlError: another training holds the lock, or the folder cannot be written.
    """
    try:
        descriptor = lock_file(run / LOCK, LOCK_SECONDS)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise _unusable(run, error) from None
    if descriptor is None:
        raise _refusal(run, _read(run))
    return descriptor


def _read(run: Path) -> Mapping[str, Any]:
    """Return the record of the owner; {} if there is none."""
    try:
        found = json.loads((run / OWNER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _boot() -> str:
    """Return what distinguishes a machine, and the times between its starts, from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return socket.gethostname()


def _name(owner: Mapping[str, Any]) -> str:
    return f"process {owner.get('process')} on {owner.get('host')}" if owner else "another process"


def _refusal(run: Path, owner: Mapping[str, Any]) -> UmlError:
    return UmlError(
        f"run folder {run} is in use by {_name(owner)}: wait until it ends, stop it, or choose another --run"
    )


def _unusable(run: Path, error: OSError) -> UmlError:
    return UmlError(
        f"run folder {run} cannot be written: {error.strerror or error}: make room, or choose another --run"
    )
