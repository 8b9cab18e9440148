"""Injects faults into a training, to try on a machine what it does then: `[faults.inject]`."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor

from ..batch import Batch
from ..config.faults import InjectConfig
from ..distributed.ranks import rank, world_size
from ..recipes import Progress
from ..run.reader import json_objects
from .engine import module_of, zero_parts
from .hooks import Hook

RECORD = Path("faults") / "injected.jsonl"
"""File in a run folder with the faults that were injected: none of them comes again when its step is repeated."""

WRITER = "uml_dist.run.writer"


class Injector(Hook):
    """Injects the faults of a configuration. All ranks draw the same ones, and one of them carries each out.

    Args:
        config: the faults.
        run: the run folder, which remembers them; None to remember nothing.
    """

    def __init__(self, config: InjectConfig, run: Path | None = None) -> None:
        self._config = config
        self._record = run / RECORD if run else None
        past = json_objects(self._record) if self._record else ()
        self._past = {(one.get("kind"), one.get("step")) for one in past}
        self._waits_for_writer = False

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
        """Inject the faults that begin with the step."""
        self._kill_writer()
        if not self._is_due(progress) or self._config.kind == "bit-flip":
            return
        self._note(progress)
        match self._config.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hang":
                while True:
                    time.sleep(1)
            case "nan":
                for batch in (batch for streams in batches for batch in streams.values()):
                    batch.image.fill_(float("nan"))
            case "kill-writer":
                self._waits_for_writer = True

    def before_update(self, network: str, engine: DeepSpeedEngine, progress: Progress) -> None:
        """Flip the last bit of the first weight of the first network."""
        self._kill_writer()
        if self._config.kind == "bit-flip" and self._is_due(progress):
            self._note(progress)
            module = module_of(engine)
            weight = zero_parts(module)[0] if engine.zero_optimization_stage() == 3 else next(module.parameters())
            with torch.no_grad():
                weight.view(torch.int32).view(-1)[0] ^= 1

    def after_step(self, progress: Progress, norms: Mapping[str, Tensor | float | None]) -> None:
        """Look for the writer of a checkpoint."""
        self._kill_writer()

    def _is_due(self, progress: Progress) -> bool:
        """Whether this rank has a fault in the step that begins now, for the first time."""
        config, step = self._config, progress.step + 1
        draw = random.Random(f"{config.seed} {step}")  # a step's faults do not depend on where the run was resumed
        due = step in config.steps if config.every is None else draw.random() < 1 / config.every
        drawn = draw.randrange(world_size())
        chosen = 0 if config.kind == "kill-writer" else drawn if config.rank is None else config.rank
        return due and chosen == rank() and (config.kind, step) not in self._past

    def _note(self, progress: Progress) -> None:
        """Remember the fault, and tell the user."""
        step = progress.step + 1
        self._past.add((self._config.kind, step))
        print(f"INJECTED FAULT: {self._config.kind} on rank {rank()} in step {step}", file=sys.stderr, flush=True)
        if self._record is None:
            return
        self._record.parent.mkdir(parents=True, exist_ok=True)
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": self._config.kind, "step": step, "rank": rank()}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _kill_writer(self) -> None:
        """Kill the process that writes a checkpoint, if that is what is waited for and there is one now."""
        if not self._waits_for_writer:
            return
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if WRITER in child.cmdline():
                    child.kill()
                    self._waits_for_writer = False
