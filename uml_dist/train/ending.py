"""Ends a rank before the training is done: a signal stops it, its launcher is gone, or its run has another owner.

A signal, or the end of the launcher, stops the training after a step, with a checkpoint. Where that is not possible,
before the first step or after a failure, the rank ends at once.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from uml_shards.errors import print_error

from ..distributed.ranks import barrier, broadcast
from ..errors import UmlError
from ..launch import World, stop_on_signals, watch_launchers
from ..run.folder import RunFolder
from ..run.owner import Owner
from ..run.reader import read_status
from .trainer import Trainer

OTHERS_SECONDS = 2.0
"""How much later other ranks end than the first one, which records why: not that it has lost one of them."""

LAUNCHER_SECONDS = 15.0
"""How long ranks without a launcher take for their last step and its checkpoint; then they end without."""


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
        self._interrupted = False
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

    def stopped(self, reason: str) -> None:
        """Record that the training has stopped after a step, whose checkpoint is saved; all ranks must call it."""
        if self._world.rank == 0:
            self._folder.write_end("stopped", self._step, reason)
            self._print_stop(reason)
        # A launcher ends the other ranks as soon as one of them leaves.
        barrier()

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

    def hang(self, reason: str) -> None:
        """Record that the training hangs, in another thread; the process ends afterwards."""
        print_error(reason)
        self.fail(reason)

    def release(self) -> None:
        """Let other trainings use the run folder."""
        self._stop_others()
        if self._owner:
            self._owner.release()
            self._owner = None

    @property
    def is_asked(self) -> bool:
        """Whether this rank was asked to stop, such as by a launcher that has lost another rank."""
        return self._trainer is not None and self._trainer.stop.reason is not None

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

    def _stop(self, signal: str) -> bool:
        """Ask the training to stop, in the main thread; return whether the rank must end at once instead."""
        reason = f"stopped by {signal}"
        if self._trainer is not None and self._trainer.running:
            again = signal == "SIGINT" and self._interrupted
            self._interrupted = self._interrupted or signal == "SIGINT"
            if not again:
                if self._trainer.stop.reason is None and self._world.rank == 0:
                    _write_line(f"{signal}: saving a checkpoint after this step; Ctrl-C again ends at once")
                self._trainer.stop.ask(reason)
                return False
        if self._world.rank != 0:
            self._stop_others()
            time.sleep(OTHERS_SECONDS)
        elif self._trainer is None or self._is_running():
            if self._trainer:
                self._folder.write_end("stopped", self._step, reason)
            self._print_stop(reason)
        self.release()
        return True

    def _print_stop(self, reason: str) -> None:
        _write_line(f"{reason} at step {self._step}: repeat the command to resume run {self._folder.path}")

    def _launcher_ended(self, reason: str) -> None:
        """Let the training stop without its launcher, or else end the rank; in another thread."""
        if self._trainer is not None and self._trainer.running:
            self._trainer.stop.ask(reason)
            time.sleep(LAUNCHER_SECONDS)  # meanwhile, the process ends
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


def _write_line(line: str) -> None:
    """Write a line to stderr; not by print, which a signal may have interrupted."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{line}\n".encode(errors="backslashreplace"))
