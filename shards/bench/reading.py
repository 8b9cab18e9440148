"""Benchmark several readers of shards on the same tars: `make bench-shards`.

All readers alternate in one process on one core: the bare decoder on bytes in memory, our split in the order of a plan,
and stock webdataset with our decoder and with its own. If simplejpeg is installed, we decode JPEG with it, and both of
our rows are repeated with Pillow alone. Times are processor times of this process, so other load has little influence.
The benchmark also measures the speed of writing shards (writing.py), the cost of a resume in the middle of an epoch of
a million samples (for which only indices exist), and the memory taken by these indices.

    PYTHONPATH=tests/support python shards/bench/reading.py --shards data/shards/isic2017/train
"""

import argparse
import csv
import hashlib
import os
import platform
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np

from uml_shards import Manifest, Split, open_split
from uml_shards.format import jpeg
from uml_shards.format.decode import decode_sample
from uml_shards.format.index import NO_LABEL, index_dtype, save_index
from uml_shards.format.manifest import Shard, Statistics
from uml_shards.importers import Options, find_importer
from uml_shards.read.plan import Plan
from uml_shards.write.writer import write_split
from writing import Written, writing

SAMPLES = 1000
"""Samples in each shard of the synthetic million."""

BATCH = 256
COMPONENTS = ("jpg", "json", "mask.png")
ALONE = ", Pillow alone"
"""Suffix of the names of readers that decode JPEG without simplejpeg."""

AIMS = {
    "ours": "0.95 of bare",
    f"ours{ALONE}": "0.95 of bare",
    "webdataset, our decoder": "ours 1.2x",
    "webdataset, its decoder": "ours 2x",
}

Reader = Callable[[int], float]
"""Reads a number of samples and returns the time in seconds."""


def timed(samples: Iterator[int], count: int) -> float:
    """Return the processor time in seconds to consume a number of samples."""
    start = process_time()
    taken = sum(1 for pixels in islice(samples, count) if pixels)
    seconds = process_time() - start
    assert taken == count
    return seconds


def readers(split: Split) -> dict[str, Reader]:
    """Return the readers by name, the bare decoder first. Readers with Pillow alone are added if simplejpeg is used."""
    plan = Plan([shard.samples for shard in split.manifest.shards], slots=16)
    kept: list[tuple[str, dict[str, bytes]]] = []

    def bare(count: int) -> float:
        kept.extend(split.components(plan.sample(position)) for position in range(len(kept), count))
        return timed((decode_sample(*each, split.layout).image.nbytes for each in kept), count)

    def ours(count: int) -> float:
        return timed((split.read(plan.sample(position)).image.nbytes for position in range(count)), count)

    return {
        "bare": bare,
        "ours": ours,
        **({f"bare{ALONE}": alone(bare), f"ours{ALONE}": alone(ours)} if jpeg.is_used() else {}),
        "webdataset, our decoder": lambda count: timed(stock(split, with_our_decoder=True), count),
        "webdataset, its decoder": lambda count: timed(stock(split, with_our_decoder=False), count),
    }


def alone(read: Reader) -> Reader:
    """Return the same reader without simplejpeg."""

    def without(count: int) -> float:
        kept, jpeg.simplejpeg = jpeg.simplejpeg, None
        try:
            return read(count)
        finally:
            jpeg.simplejpeg = kept

    return without


def stock(split: Split, with_our_decoder: bool) -> Iterator[int]:
    """Yield the sizes of images from webdataset's own pipeline, shuffled as in its documentation, indefinitely."""
    from webdataset.compat import WebDataset

    def decoded(record: dict) -> int:
        components = {name: data for name, data in record.items() if not name.startswith("__")}
        return decode_sample(record["__key__"], components, split.layout).image.nbytes

    def of_pictures(record: dict) -> int:
        image = next(record[name] for name in ("jpg", "jpeg", "png") if name in record)
        return image.width * image.height * len(image.getbands())

    def epoch() -> Iterator[int]:
        urls = [str(split.path / shard.name) for shard in split.manifest.shards]
        data: Any = WebDataset(urls, shardshuffle=len(urls)).shuffle(1000)
        return iter(data.map(decoded) if with_our_decoder else data.decode("pil").map(of_pictures))

    return chain.from_iterable(iter(epoch, None))


def in_turns(split: Split, rounds: int) -> dict[str, float]:
    """Return the median samples per second of each reader, without the first round, which is a warm-up.

    A round is a complete epoch: stock webdataset fills its buffer at the beginning and empties it at the end.
    """
    found, count = readers(split), len(split)
    rates: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, read in found.items():
            rates[name].append(count / read(count))
        print(f"round {turn}/{rounds}", end="\r", flush=True)
    return {name: median(values[1:]) for name, values in rates.items()}


@contextmanager
def million(count: int) -> Iterator[Path]:
    """Create a split with a number of shards whose tars are sparse files of the right size without data."""
    with tempfile.TemporaryDirectory() as folder:
        path, shards = Path(folder), []
        index = np.zeros(SAMPLES, index_dtype(len(COMPONENTS)))
        index["label"] = NO_LABEL
        index["base"] = np.arange(SAMPLES) * 65536
        index["start"], index["size"] = (512, 40000, 45000), (30000, 300, 2000)
        for number in range(count):
            name = f"shard-{number:06d}"
            save_index(index, path / f"{name}.index.npy")
            with (path / f"{name}.tar").open("wb") as file:
                file.truncate(SAMPLES * 65536)
            digest = hashlib.sha256((path / f"{name}.index.npy").read_bytes()).hexdigest()
            shards.append(
                Shard(
                    name=f"{name}.tar", bytes=SAMPLES * 65536, sha256="0" * 64, samples=SAMPLES,
                    index=f"{name}.index.npy", index_sha256=digest,
                )
            )  # fmt: skip
        Manifest(
            dataset="million", split="train", channels=3, size=(256, 256), components=COMPONENTS, labelled=0, masked=0,
            statistics=Statistics(mean=(0.5,) * 3, std=(0.2,) * 3), licence="none", source="none", shards=tuple(shards),
        ).save(path)  # fmt: skip
        yield path


class Resumed(NamedTuple):
    """A resume in the middle of an epoch: samples in the split, seconds to locate the first batch, bytes per sample."""

    samples: int
    seconds: float
    bytes: float


def resume(path: Path) -> Resumed:
    """Open a folder and locate the first batch after the middle of an epoch."""
    start = perf_counter()
    split = open_split(path)
    plan = Plan([shard.samples for shard in split.manifest.shards], slots=BATCH, seed=1)
    first = 3 * plan.first_step(1) // 2 * BATCH
    for position in range(first, first + BATCH):
        split.locate(plan.sample(position))
    seconds = perf_counter() - start
    tracemalloc.start()
    again = open_split(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Resumed(len(again), seconds, held / len(again))


@contextmanager
def phantom(count: int, size: int) -> Iterator[Split]:
    """Create shards of the phantom, used if no others are given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train"
        importer = find_importer("phantom")(None, Options(size=size, counts={"train": count, "val": 0, "test": 0}))
        write_split(importer, "train", importer.splits()["train"], path, workers=os.cpu_count() or 1, quiet=True)
        yield open_split(path)


def report(split: Split, rates: dict[str, float], resumed: Resumed, written: Written, out: Path) -> None:
    """Print the tables and write shards.csv."""
    manifest = split.manifest
    size = "x".join(map(str, manifest.size)) if manifest.size else "several sizes"
    decoder = f"simplejpeg {version('simplejpeg')}" if jpeg.is_used() else "pillow"
    words = f"webdataset {version('webdataset')}, pillow {version('pillow')}, Python {platform.python_version()}"
    print(f"{manifest.dataset}, {size}, one core of {os.cpu_count()}, load {os.getloadavg()[0]:.1f}; {words}")
    print(f"we decode JPEG by {decoder}; per second of processor time\n")
    print(f"{'reader':26}{'samples/s':>10}{'of bare':>9}{'ours is':>9}  aim")
    for name, rate in rates.items():
        of_bare = rate / rates["bare" + (ALONE if name.endswith(ALONE) else "")]
        print(f"{name:26}{rate:10.0f}{of_bare:9.3f}{rates['ours'] / rate:8.2f}x  {AIMS.get(name, '')}")
    print(f"\nresume mid-epoch of {resumed.samples:,} samples: {resumed.seconds:.2f} s to the first batch (aim 1 s)")
    print(f"memory of its index: {resumed.bytes:.1f} bytes per sample (aim 40)")
    share = written.ours / written.bare
    print(f"writing: {written.ours:.0f} samples/s of all cores, {share:.2f} of decoding and encoding alone (aim 0.9)")
    out.mkdir(parents=True, exist_ok=True)
    figures = [*((name, "samples/s", rate) for name, rate in rates.items())]
    figures += [("resume", "s", resumed.seconds), ("index", "bytes per sample", resumed.bytes)]
    figures += [("encoding", "samples/s", written.bare), ("writing", "samples/s", written.ours)]
    common = {"dataset": manifest.dataset, "size": size, "cores": os.cpu_count(), "jpeg": decoder}
    common |= {name: version(name) for name in ("webdataset", "pillow")}
    common |= {"python": platform.python_version(), "date": date.today().isoformat()}
    with (out / "shards.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["what", "unit", "value", *common])
        table.writeheader()
        for what, unit, value in figures:
            table.writerow({"what": what, "unit": unit, "value": f"{value:.4g}", **common})
    print(f"written to {out}/shards.csv")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, print the tables and write shards.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shards", type=Path, help="a split to read, such as data/shards/isic2017/train (default: the phantom)"
    )
    parser.add_argument("--dataset", default="phantom", help="data set to write (default: the phantom)")
    parser.add_argument("--raw", type=Path, help="folder of the raw data of --dataset")
    parser.add_argument("--size", type=int, default=256, help="image size of --dataset and of the phantom")
    parser.add_argument("--samples", type=int, default=500, help="samples to write, and samples of the phantom to read")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds, whose median is reported")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of shards.csv")
    parser.add_argument(
        "--index-shards", type=int, default=1000, help=f"number of indices of {SAMPLES} samples for the resume"
    )
    chosen = parser.parse_args(arguments)
    counts = {} if chosen.raw else {"train": chosen.samples, "val": 0, "test": 0}
    importer = find_importer(chosen.dataset)(chosen.raw, Options(size=chosen.size, counts=counts))
    written = writing(importer, "train", chosen.samples, max(chosen.rounds // 2, 1))
    with million(chosen.index_shards) as path:
        resumed = resume(path)
    if chosen.shards:
        split = open_split(chosen.shards)
        report(split, in_turns(split, chosen.rounds), resumed, written, chosen.out)
        return
    with phantom(chosen.samples, chosen.size) as split:
        report(split, in_turns(split, chosen.rounds), resumed, written, chosen.out)


if __name__ == "__main__":
    main()
