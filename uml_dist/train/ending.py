"""Ends a rank before the training is done: a signal stops it, its launcher is gone, or its run has another owner."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from uml_shards.errors import print_error

from ..distributed.ranks import broadcast
from ..errors import UmlError
from ..launch import World, stop_on_signals, watch_launchers
from ..run.folder import RunFolder
from ..run.owner import Owner
from ..run.reader import read_status
from .trainer import Trainer

OTHERS_SECONDS = 2.0
"""How much later other ranks end than the first one, which records why: not that it has lost one of them."""


class Ending:
    """Owns the run folder, on rank 0, and records why the rank ends if it does not end by itself.

    Args:
        world: the position of this rank.
        run: the run folder.
    """

    def __init__(self, world: World, run: Path) -> None:
        self._world = world
        self._folder = RunFolder(run, writes=True)
        self._owner: Owner | None = None
        self._trainer: Trainer | None = None
        self._stops: list[Callable[[], object]] = []
        stop_on_signals(self._stop)
        watch_launchers(self._launcher_ended)

    def own(self, run: Path) -> None:
        """Make rank 0 the owner of the run folder. All ranks must call it.

        Args:
            run: the folder, the same on all ranks.

        Raises:
            UmlError: another training owns the folder, or it cannot be written; raised on all ranks.
        """
        self._folder, problem = RunFolder(run, writes=True), None
        if self._world.rank == 0:
            try:
                self._owner = Owner(self._folder.path, self._lose, lambda line: print(line, flush=True))
            except UmlError as error:
                problem = str(error)
        problem = broadcast(problem)
        if problem:
            raise UmlError(problem)

    def watch(self, trainer: Trainer) -> None:
        """Record the end of a training in status.json from now on."""
        self._trainer = trainer

    def stopping(self, stop: Callable[[], object]) -> None:
        """Call a function once when this rank ends, however it does; signal handlers and other threads may call it."""
        self._stops.append(stop)

    def done(self) -> None:
        """Record that the training is done, on rank 0."""
        if self._world.rank == 0:
            self._folder.write_status("done", self._step)

    def fail(self, reason: str) -> bool:
        """Record why the training has failed, and release the folder.

        Returns:
            Whether this rank is the first: otherwise another one has already recorded why the training ends.
        """
        first = self._is_running()
        if first:
            self._folder.write_end("failed", self._step, reason)
        self.release()
        return first

    def release(self) -> None:
        """Let other trainings use the run folder."""
        self._stop_others()
        if self._owner:
            self._owner.release()
            self._owner = None

    @property
    def _step(self) -> int:
        return self._trainer.state.step if self._trainer else 0

    def _is_running(self) -> bool:
        """Whether the training has begun, and no rank has recorded its end yet."""
        if self._trainer is None:
            return False
        with suppress(OSError, ValueError):
            status = read_status(self._folder.path)
            return status is None or status.get("status") == "running"
        return True

    def _stop(self, signal: str) -> None:
        """Record a stop by a signal, in the main thread."""
        if self._world.rank != 0:
            self._stop_others()
            time.sleep(OTHERS_SECONDS)
        elif self._trainer is None or self._is_running():
            # Not by print, which the signal may have interrupted.
            line = f"stopped by {signal} at step {self._step}: repeat the command to resume run {self._folder.path}\n"
            if self._trainer:
                self._folder.write_end("stopped", self._step, f"stopped by {signal}")
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode(errors="backslashreplace"))
        self.release()

    def _launcher_ended(self, reason: str) -> None:
        """End the rank without its launcher, in another thread."""
        if self._world.local_rank != 0:
            self._stop_others()
            time.sleep(OTHERS_SECONDS)
        else:
            print_error(f"{reason}: repeat the command to resume run {self._folder.path}")
            self.fail(reason)
        os._exit(2)

    def _lose(self, line: str) -> None:
        """End the rank whose run folder has another owner, which writes the status from now on."""
        print_error(line)
        self._stop_others()
        os._exit(2)

    def _stop_others(self) -> None:
        """Stop what else ends with this rank."""
        stops, self._stops = self._stops, []
        for stop in stops:
            with suppress(Exception):  # the rank ends in any case
                stop()
