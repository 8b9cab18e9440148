"""Measure the speed of writing shards, and of the importer's decoding and encoding alone, both on all cores."""

import multiprocessing
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

from uml_shards.importers import Importer
from uml_shards.write.writer import write_split


class Written(NamedTuple):
    """Samples per second of all cores: `bare` encodes components only, `ours` writes a checked split."""

    bare: float
    ours: float


def writing(importer: Importer, split: str, count: int, rounds: int) -> Written:
    """Return the median rates over several rounds, with the two measurements alternating.

    Args:
        importer: importer of the data.
        split: name of the split.
        count: largest number of samples to use.
        rounds: number of rounds of each measurement.
    """
    source = importer.splits()[split]
    source = replace(source, items=list(source.items)[:count])
    workers = os.cpu_count() or 1
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        start = perf_counter()
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            samples = sum(1 for _ in pool.imap_unordered(importer.encode, source.items, chunksize=16))
        rates[0].append(samples / (perf_counter() - start))
        with tempfile.TemporaryDirectory() as folder:
            start = perf_counter()
            write_split(importer, split, source, Path(folder) / split, workers=workers, quiet=True)
            rates[1].append(samples / (perf_counter() - start))
    return Written(*(median(each) for each in rates))
