"""Measures the cost of loading a batch, which the timed steps exclude because they reuse one batch in memory."""

import tempfile
from itertools import count
from pathlib import Path
from statistics import median
from time import process_time

from step_variants import Setting
from uml_dist.batch import collate
from uml_shards import open_split
from uml_shards.importers import Options, find_importer
from uml_shards.read.loader import load
from uml_shards.read.plan import Plan
from uml_shards.read.stream import Stream
from uml_shards.write.writer import write_split


def loading(setting: Setting, batches: int) -> float:
    """Return the median seconds of one core to read, augment and collate a phantom batch, as the Trainer does.

    Args:
        setting: image size and batch size.
        batches: number of batches to load, after one more for warm-up.
    """
    with tempfile.TemporaryDirectory() as folder:
        counts = {"train": 8 * setting.batch, "val": 0, "test": 0}
        importer = find_importer("phantom")(None, Options(size=setting.size, counts=counts))
        path = Path(folder) / "train"
        write_split(importer, "train", importer.splits()["train"], path, quiet=True)
        split = open_split(path)
        plan = Plan([shard.samples for shard in split.manifest.shards], setting.batch)
        size = (setting.size, setting.size)
        streams = {"train": Stream(split, plan, size, split.manifest.statistics, augment="light")}
        requests = ({"train": range(first, first + setting.batch)} for first in count(0, setting.batch))
        loaded, seconds = load(streams, requests, collate), []
        for _ in range(batches + 1):
            start = process_time()
            next(loaded)
            seconds.append(process_time() - start)
    return median(seconds[1:])
