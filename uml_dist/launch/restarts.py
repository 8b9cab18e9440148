"""Restarts of a training whose ranks have failed: `--restarts N`."""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path

from uml_shards.errors import STOPPED

from ..errors import CORRUPT

ALLOWED, LEFT = "UML_RESTARTS", "UML_RESTARTS_LEFT"
RUN, CHECKPOINT = "UML_RESTARTS_RUN", "UML_RESTARTS_CHECKPOINT"

FINAL = (0, 2, STOPPED, CORRUPT)
"""Exit codes after which nothing is restarted: done, the user must change something, stopped, a faulty machine."""


@dataclass(frozen=True)
class Restarts:
    """The restarts that a training still has.

    Attributes:
        run: the run folder.
        allowed: number of restarts in a row without progress, which is a newer checkpoint.
        left: how many of them are left.
        checkpoint: name of the newest checkpoint when the ranks were started; "" for none.
    """

    run: Path
    allowed: int
    left: int
    checkpoint: str = ""

    @classmethod
    def of(cls, run: Path, allowed: int) -> "Restarts":
        """Return the restarts of a training that starts now."""
        return cls(run, allowed, allowed, _newest(run))

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Restarts | None":
        """Return what `write` has put into the environment; None if nothing is restarted."""
        if RUN not in environment:
            return None
        numbers = (int(environment[ALLOWED]), int(environment[LEFT]))
        return cls(Path(environment[RUN]), *numbers, environment.get(CHECKPOINT, ""))

    def write(self, environment: MutableMapping[str, str]) -> None:
        """Put the restarts into an environment, for the launcher."""
        numbers = {ALLOWED: str(self.allowed), LEFT: str(self.left)}
        environment.update({RUN: str(self.run), CHECKPOINT: self.checkpoint, **numbers})

    def after(self, code: int) -> "Restarts | None":
        """Return the restarts for the next start, after the ranks have ended with an exit code; None for no start."""
        if code in FINAL:
            return None
        newest = _newest(self.run)
        left = self.allowed if newest != self.checkpoint else self.left
        return replace(self, left=left - 1, checkpoint=newest) if left > 0 else None


def _newest(run: Path) -> str:
    """Return the name of the newest checkpoint; "" for none."""
    try:
        return os.fsdecode((run / "checkpoints" / "latest").read_bytes()[:100]).strip()
    except OSError:
        return ""
