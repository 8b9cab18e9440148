"""Short trainings that Prometheus watches: slow enough for several scrapes, with validations and checkpoints."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from broken_shards import restate_digests
from uml_dist.batch import Batch
from uml_dist.recipes import Progress
from uml_dist.train.hooks import Hook
from worldly import train_as_the_command


class Slow(Hook):
    """Waits before each step, and before the second one until Prometheus has seen the run.

    Prometheus takes up to 5 s for a new file of targets.
    """

    def __init__(self, seconds: float, seen: Path) -> None:
        self._seconds = seconds
        self._seen = seen

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
        deadline = time.monotonic() + 100
        while progress.step == 1 and not self._seen.exists():
            assert time.monotonic() < deadline, f"{self._seen} does not appear"
            time.sleep(0.05)
        time.sleep(self._seconds)


def train_slowly(tree: dict[str, Any], run: str, seconds: float) -> tuple[Any, str, str]:
    """Train on this rank with pauses between the steps; return exit code, stdout and stderr.

    Args:
        tree: the configuration.
        run: the run folder; the file that says that Prometheus has seen the run is beside it.
        seconds: pause before each step.
    """
    return train_as_the_command(tree, run, hooks=[Slow(seconds, Path(f"{run}.seen"))])


def watched(tree: dict[str, Any], targets: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with an exporter on a free port, and with settings of other sections added."""
    changed = {**tree, "metrics": {"port": 0, "targets_dir": str(targets)}}
    for section, settings in sections.items():
        changed[section] = {**tree.get(section, {}), **settings}
    return changed


def break_a_sample(split: Path) -> None:
    """Damage the first picture of each shard."""
    for tar in split.glob("*.tar"):
        data = bytearray(tar.read_bytes())
        jpeg = data.index(b"\xff\xd8\xff")
        data[jpeg : jpeg + 64] = bytes(64)
        tar.write_bytes(data)
    restate_digests(split)
