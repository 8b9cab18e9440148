"""Saves checkpoints while the training goes on: it waits for a copy in memory only, not for the disk.

The content of each file is copied to a memory file, which belongs to no file system and is gone with the processes that
have it open. Another process writes them to the disk; see `writer.py`. It is started anew and not forked, as a fork
would inherit locks and the state of the device, and it ends when this process does. Until its checkpoint is complete
the older one is untouched, whatever ends both.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..config.schema import CheckpointConfig
from ..errors import UmlError
from ..launch.available_memory import read_memory
from ..launch.stopping import SIGNALS
from .checkpoint import RunState, files_of, save_checkpoint
from .checkpoint_folder import folder_name, tidy
from .folder import RunFolder
from .network_state import NetworkState

SHARE = 0.75
"""Largest share of the available memory that a copy may take."""


class SaveError(UmlError):
    """A checkpoint could not be written; raised on all ranks alike."""


@dataclass(frozen=True)
class Saved:
    """What came of a save.

    Attributes:
        checkpoint: folder of the checkpoint.
        seconds: from its start until the checkpoint was complete, or had failed.
        problem: why it could not be written, in one line; None if it was.
    """

    checkpoint: Path
    seconds: float
    problem: str | None = None


@dataclass(frozen=True)
class _Flight:
    """A save in flight: its checkpoint, the monotonic time of its start, and its writer."""

    checkpoint: Path
    start: float
    writer: subprocess.Popen[bytes]


class Saver:
    """Saves the checkpoints of a run, one at a time. Only rank 0 writes; on the other ranks no method does anything.

    Args:
        folder: the run's folder.
        config: whether to save in the background, and how many checkpoints to keep.
        ended: called with what came of each save, by the methods below.
        say: called with a line for the user.

    Attributes:
        problem: why a checkpoint could not be written, in one line; nothing is saved from then on.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: CheckpointConfig,
        ended: Callable[[Saved], object],
        say: Callable[[str], object],
    ) -> None:
        self.problem: str | None = None
        self._folder = folder
        self._keep = config.keep
        self._background = config.background and hasattr(os, "memfd_create")
        self._ended = ended
        self._say = say
        self._told = False
        self._flight: _Flight | None = None

    def save(
        self,
        networks: Mapping[str, NetworkState],
        run: RunState,
        pointers: Sequence[str] = (),
        start: float | None = None,
    ) -> None:
        """Wait for an earlier save and save a checkpoint, in the background if there is memory for a copy.

        Args:
            networks: the states of the networks.
            run: the progress of the run.
            pointers: names of pointers to the checkpoint besides `latest`.
            start: monotonic time at which its seconds begin; by default now.
        """
        self.wait()
        if not self._folder.writes or self.problem is not None:
            return
        start = time.monotonic() if start is None else start
        checkpoint = self._folder.checkpoints / folder_name(run.step)
        if self._background:
            try:
                self._flight = _Flight(checkpoint, start, self._copy(networks, run, pointers))
            except (OSError, MemoryError) as error:
                self._tell(str(getattr(error, "strerror", None) or error))
            else:
                return
        problem = None
        try:
            save_checkpoint(self._folder.checkpoints, networks, run, pointers, self._keep)
        except UmlError as error:
            problem = str(error)
        self._end(Saved(checkpoint, time.monotonic() - start, problem))

    def poll(self) -> None:
        """Look, without waiting, whether the save in flight has ended."""
        if self._flight and self._flight.writer.poll() is not None:
            self.wait()

    def wait(self) -> None:
        """Wait until the save in flight has ended."""
        if self._flight is None:
            return
        flight = self._flight
        output, errors = flight.writer.communicate()
        self._flight = None
        if flight.writer.returncode == 0:
            found = json.loads(output.splitlines()[-1])
            self._end(Saved(flight.checkpoint, found["time"] - flight.start, found["problem"]))
            return
        with suppress(OSError):
            tidy(self._folder.checkpoints)  # the disk may be full
        problem = (
            f"checkpoint {flight.checkpoint} cannot be written: its writer (process {flight.writer.pid}) "
            f"{_end_of(flight.writer.returncode, errors)}: resume with --run {self._folder.path}, and with "
            "checkpoint.background=false if memory is short"
        )
        self._end(Saved(flight.checkpoint, time.monotonic() - flight.start, problem))

    def _end(self, saved: Saved) -> None:
        self.problem = saved.problem
        self._ended(saved)

    def _tell(self, reason: str) -> None:
        """Say, the first time, why a checkpoint is not written in the background."""
        if not self._told:
            self._say(f"checkpoints cannot be copied to memory ({reason}): training waits while they are written")
        self._told = True

    def _copy(
        self, networks: Mapping[str, NetworkState], run: RunState, pointers: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        """Copy the files of a checkpoint to memory and start the process that writes them.

        Raises:
            MemoryError: the copy would take too much of the available memory.
            OSError: the system refuses memory, or the process.
        """
        needed, memory = sum(map(_bytes_of, networks.values())), read_memory()
        if needed > SHARE * memory.available:
            available = f"{memory.available / 1e9:.1f} GB are available on {memory.bound}"
            raise MemoryError(f"{needed / 1e9:.1f} GB would be copied, {available}")
        descriptors: dict[str, int] = {}
        try:
            for name, pieces in files_of(networks, run).items():
                descriptors[name] = os.memfd_create("checkpoint")
                with open(descriptors[name], "wb", closefd=False) as file:
                    file.writelines(pieces)
            order = {"step": run.step, "files": descriptors, "pointers": list(pointers), "keep": self._keep}
            return _start(self._folder.checkpoints, {**order, "parent": os.getpid()}, descriptors.values())
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)  # from now on the writer's alone


def _bytes_of(state: NetworkState) -> int:
    return sum(tensor.nbytes for tensors in (state.weights, *state.moments.values()) for tensor in tensors.values())


def _start(folder: Path, order: Mapping[str, object], descriptors: Iterable[int]) -> subprocess.Popen[bytes]:
    """Start the writer, which inherits descriptors.

    Raises:
        OSError: no process can be started.
    """
    program = [sys.executable, "-P", "-m", f"{__package__}.writer", str(folder), json.dumps(order)]
    # Signals to all processes must not end it, as those that stop a training do: it waits for this save. They are
    # blocked here and not there, where they might arrive before.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGHUP})
    try:
        return subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(descriptors),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_of(code: int, errors: bytes) -> str:
    """Return how a writer has ended."""
    if code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    lines = errors.decode(errors="replace").strip().splitlines()
    return f"has failed ({lines[-1] if lines else f'exit code {code}'})"
