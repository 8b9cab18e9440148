"""Make, index, verify and describe shards: the body of `launchers/shards.py` and of `uml-dist shards`."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .address import parse_location
from .arguments import ArgumentParser
from .errors import one_line, print_error, run_command
from .importers import Importer, Options, find_importer, hidden_importers, importer_names
from .importers.base import with_shares
from .output import keep_output
from .read.draw import draw_labelled, refuse_existing, save_keys
from .read.part import with_truth
from .read.split import find_splits, open_split
from .storage.cache import Cache
from .storage.storage import open_storage
from .text import printable
from .write.key_table import find_key, save_key_table
from .write.near_copies import NearCopy, near_copies
from .write.plain import index_plain
from .write.skipped import FILE_NAME as SKIPPED_NAME
from .write.skipped import load_skipped, summarize
from .write.verify import verify
from .write.writer import MAX_SKIPPED, unwritten, write_split

DESCRIPTION = "Make, index, verify and describe shards."
EXAMPLE = "example: python launchers/shards.py make --dataset isic2017 --raw /data/isic2017 --size 256 --workers 8"
DRAW = "example: python launchers/shards.py draw data/shards/isic2017/train --labelled 0.05 --out labelled.txt"


def main(arguments: Sequence[str] | None = None, prog: str = "shards.py") -> int:
    """Run a command; return the exit code: 0 on success, 2 on an error that the user can fix.

    Args:
        arguments: the command line; by default that of this process.
        prog: name of the program in messages.
    """
    keep_output()
    given = parse(arguments, prog)
    return run_command(lambda: given.run(given), given.debug)


def make(given: argparse.Namespace) -> int:
    """Import a data set into OUT/<split>/."""
    kind = find_importer(given.dataset)
    if kind.needs_raw and not (given.raw and given.raw.is_dir()):
        print(_describe(kind), file=sys.stderr)
    options = Options(given.size, given.seed, given.lossless, dict(given.count), dict(given.set))
    importer = kind(given.raw, options)
    out = given.out or Path("data/shards") / importer.name
    sources = importer.splits()
    for text, count in with_shares(importer.take_notes()).items():
        print(f"note: {printable(text)}: {count}")
    left = sources if given.overwrite else unwritten(importer, sources, out)
    for split, source in left.items():
        write_split(
            importer,
            split,
            source,
            out / split,
            workers=given.workers,
            overwrite=given.overwrite,
            quiet=given.quiet,
            on_bad_sample=given.on_bad_sample,
            max_skipped=given.max_skipped,
        )
    origins = {split: map(importer.origin, source.items) for split, source in sources.items()}
    save_key_table(out, {split: dict(filter(None, pairs)) for split, pairs in origins.items()})
    _print_skipped(out / split for split in sources)
    return info(argparse.Namespace(path=out, key=None))


def index(given: argparse.Namespace) -> int:
    """Write manifest and indices for plain webdataset tars."""
    index_plain(
        given.path,
        dataset=given.dataset,
        split=given.split,
        classes=given.classes,
        mask_classes=given.mask_classes,
        overwrite=given.overwrite,
        quiet=given.quiet,
    )
    return info(argparse.Namespace(path=given.path, key=None))


def check(given: argparse.Namespace) -> int:
    """Verify every byte and every sample."""
    path = parse_location(given.path)
    cache = Cache(given.cache)
    problems = verify(path, cache=cache, quiet=given.quiet)
    for problem in problems:
        print_error(problem)
    if not problems:
        print(f"{printable(str(path))}: no problems found")
    if given.near_copies:
        _print_near_copies(near_copies(find_splits(path), cache=cache, quiet=given.quiet))
    return 2 if problems else 0


def info(given: argparse.Namespace) -> int:
    """Print a summary of the manifests, or the raw file of a key."""
    path = parse_location(given.path)
    if given.key:
        split, file = find_key(Path(given.path), given.key)
        print(f"{given.key} ({split}): {printable(file)}")
        return 0
    splits = find_splits(path) or [path]
    manifests = [open_storage(split).load_manifest() for split in splits]
    row = "{:<8} {:>8} {:>7} {:>10} {:>9} {:>9}  {}"
    print(row.format("split", "samples", "shards", "megabytes", "labelled", "masked", "classes"))
    for split in manifests:
        size = sum(shard.bytes for shard in split.shards) / 1e6
        classes = ", ".join(f"{name} {n}" for name, n in zip(split.classes, split.class_counts, strict=True)) or "none"
        cells = (split.split, split.samples, len(split.shards), f"{size:.1f}", split.labelled, split.masked, classes)
        print(row.format(*cells))
    for split in manifests:
        mean, std = (
            " ".join(f"{value:.3f}" for value in part) for part in (split.statistics.mean, split.statistics.std)
        )
        size = "x".join(str(side) for side in split.size) if split.size else "of different sizes"
        kind = "volumes" if split.dimensions == 3 else "images"
        channels = "1 channel" if split.channels == 1 else f"{split.channels} channels"
        print(f"{split.split}: {kind} {size}, {channels}, mean {mean}, std {std}")
        for text, count in split.notes.items():
            print(f"{split.split}: {printable(text)}: {count}")
    first = manifests[0]
    masks = ", ".join(first.mask_classes or first.mask_names) or "none"
    print(f"data set: {first.dataset}\nmasks:    {masks}\nlicence:  {first.licence}\nsource:   {first.source}")
    return 0


def draw(given: argparse.Namespace) -> int:
    """Draw the samples that a stream may use as labelled."""
    refuse_existing(given.out)
    split = open_split(given.path, Cache(given.cache))
    numbers = draw_labelled(split, given.labelled, given.seed, given.quiet)
    keys, classes = split.keys(), split.manifest.classes
    labels, known = split.labels()[numbers], int(with_truth(split).sum())
    counts = ", ".join(f"{name} {(labels == number).sum()}" for number, name in enumerate(classes))
    what = f"{len(numbers)} of the {known} samples of {split.path} with mask or label, seed {given.seed}"
    save_keys(given.out, [keys[number] for number in numbers], what)
    print(f"{given.out}: {what}" + (f": {counts}" if counts else ""))
    return 0


def datasets(given: argparse.Namespace) -> int:
    """Print a description of every importer. An unusable one of an installed package is a line with its problem."""
    print("\n\n".join([*map(_describe_or_problem, importer_names()), *hidden_importers()]))
    return 0


def _print_near_copies(pairs: Sequence[NearCopy]) -> None:
    for pair in pairs:
        print(f"near copies: {printable(str(pair))}")
    if not pairs:
        print("near copies: none in different splits")


def _describe_or_problem(name: str) -> str:
    try:
        return _describe(find_importer(name))
    except Exception as error:  # the code of another package may raise anything
        return f"{name}: not available: {one_line(error)}"


def _print_skipped(folders: Iterable[Path]) -> None:
    """Print the number of skipped samples of each split, by reason."""
    for folder in folders:
        if skipped := load_skipped(folder):
            print(f"{folder.name}: {len(skipped)} samples were skipped, see {folder / SKIPPED_NAME}")
            print(summarize(skipped))


def _describe(kind: type[Importer]) -> str:
    """Return a description of a data set: licence, origin, expected layout and settings."""
    tree = kind.tree.replace("\n", "\n  ")
    lines = (
        f"{kind.name}: {kind.summary}",
        f"licence: {kind.licence}",
        f"get it: {kind.where}",
        f"source: {kind.source}",
    )
    return "\n  ".join((*lines, tree, *kind.settings_help()))


def _count(text: str) -> tuple[str, int]:
    split, _, number = text.partition("=")
    if not split or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not SPLIT=NUMBER")
    return split, int(number)


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different names separated by commas")
    return names


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number or fraction of samples") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def parse(arguments: Sequence[str] | None = None, prog: str = "shards.py") -> argparse.Namespace:
    """Parse the command line."""
    shared = ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    shared.add_argument("--quiet", action="store_true", help="no progress bar")
    parser = ArgumentParser(prog=prog, description=DESCRIPTION, epilog=EXAMPLE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_make, _add_index, _add_verify_and_info, _add_draw, _add_datasets):
        add(commands, shared)
    return parser.parse_args(arguments)


def _add_make(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("make", parents=[shared], help="import a data set", epilog=EXAMPLE)
    command.add_argument(
        "--dataset", default="phantom", help="an importer, see `datasets`, or package.module:Class (default: phantom)"
    )
    command.add_argument("--raw", type=Path, help="folder of the raw data")
    command.add_argument("--out", type=Path, help="folder for the splits (default: data/shards/DATASET)")
    command.add_argument("--size", type=int, help="height and width to store; 0 keeps each image's size")
    command.add_argument(
        "--seed", type=int, default=0, help="random seed of drawn splits and generated data (default: 0)"
    )
    command.add_argument(
        "--workers", type=_positive, default=2, help="number of processes; does not affect the result (default: 2)"
    )
    command.add_argument(
        "--lossless", action="store_true", help="store resized or generated images as PNG instead of JPEG"
    )
    command.add_argument("--overwrite", action="store_true", help="replace finished splits")
    command.add_argument(
        "--count",
        type=_count,
        nargs="+",
        default=[],
        metavar="SPLIT=NUMBER",
        help="number of samples, for generated data",
    )
    command.add_argument(
        "--set",
        type=_setting,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the importer, see `datasets`",
    )
    command.add_argument(
        "--on-bad-sample",
        choices=("error", "skip"),
        default="error",
        help="stop at a bad sample, or skip it and list it in skipped.csv (default: error)",
    )
    command.add_argument(
        "--max-skipped",
        type=_positive,
        default=MAX_SKIPPED,
        help=f"largest number of skipped samples per split (default: {MAX_SKIPPED})",
    )
    command.set_defaults(run=make)


def _add_index(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("index", parents=[shared], help="write a manifest for plain webdataset tars")
    command.add_argument(
        "path", type=Path, metavar="PATH", help="a folder of *.tar files; manifest and indices are written beside them"
    )
    command.add_argument("--classes", type=_names, default=(), metavar="A,B", help="class names, in label order")
    command.add_argument(
        "--mask-classes", type=_names, default=(), metavar="A,B", help="pixel class names, background first"
    )
    command.add_argument("--dataset", help="name of the data set (default: the folder's name)")
    command.add_argument("--split", help="name of the split (default: the folder's name)")
    command.add_argument("--overwrite", action="store_true", help="replace manifest and indices")
    command.set_defaults(run=index)


def _add_verify_and_info(commands: Any, shared: argparse.ArgumentParser) -> None:
    for name, run, text in (
        ("verify", check, "check every byte and every sample"),
        ("info", info, "print a summary of shards"),
    ):
        command = commands.add_parser(name, parents=[shared], help=text)
        command.add_argument("path", metavar="PATH", help="a data set's folder, one of its splits, or a split's URL")
        command.set_defaults(run=run)
        if name == "info":
            command.add_argument("--key", help="print the raw file of this key instead, on the machine that made it")
        if name == "verify":
            command.add_argument("--cache", type=Path, help="cache folder for the files of a URL")
            command.add_argument(
                "--near-copies", action="store_true", help="also list images of different splits that look alike"
            )


def _add_draw(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("draw", parents=[shared], help="draw samples to count as labelled", epilog=DRAW)
    command.add_argument("path", metavar="PATH", help="a split's folder or URL")
    command.add_argument(
        "--labelled",
        type=_amount,
        required=True,
        metavar="NUMBER",
        help="number of samples, or a fraction of them if below 1",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of the draw (default: 0)")
    command.add_argument("--out", type=Path, required=True, help="list to write, with one key per line")
    command.add_argument("--cache", type=Path, help="cache folder for the files of a URL")
    command.set_defaults(run=draw)


def _add_datasets(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("datasets", parents=[shared], help="list the importers and where to get the data")
    command.set_defaults(run=datasets)
