"""A program like launchers/train.py whose ranks also write down the keys of every step, beside the run folder."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uml_dist.batch import Batch
from uml_dist.commands import train
from uml_dist.launch import end_process
from uml_dist.recipes import Progress


def record_keys() -> None:
    """Let the training of this process, a rank, write down its keys."""
    from uml_dist.distributed.ranks import rank
    from uml_dist.train import main
    from uml_dist.train.hooks import Hook

    train_rank = main.train_rank

    class Keys(Hook):
        def __init__(self, folder: Path) -> None:
            self._folder = folder

        def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
            keys = [{name: batch.keys for name, batch in streams.items()} for streams in batches]
            with (self._folder / f"keys-{rank()}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": progress.step + 1, "keys": keys}) + "\n")

    def train_recorded(setup: Any, start: Any, devices: Any) -> int:
        return train_rank(setup, start, devices, [Keys(start.run.parent)])

    main.train_rank = train_recorded


if __name__ == "__main__":
    if "RANK" in os.environ:  # before, DeepSpeed must not be imported
        record_keys()
    end_process(train.main(sys.argv[1:]))
