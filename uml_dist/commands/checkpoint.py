"""Verify, prune or export the checkpoints of a run, or show how to resume it on other ranks."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from uml_shards.arguments import ArgumentParser
from uml_shards.errors import print_error, run_command
from uml_shards.output import keep_output

from ..errors import UmlError
from ..run.export import Format, export
from ..run.load import GRAPH_DESCRIPTION
from ..run.maintenance import check_run, prune_run, reshard_run
from ..run.reader import run_folder

EXAMPLES = {
    "verify": "python launchers/checkpoint.py verify --run runs/isic",
    "reshard": "python launchers/checkpoint.py reshard --run runs/isic --ranks 4 --stage 3",
    "prune": "python launchers/checkpoint.py prune --run runs/isic --keep 1",
    "export": "python launchers/checkpoint.py export --run runs/isic --out models/isic",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 success, 2 the user must change something."""
    keep_output()
    given = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: given.command(given), given.debug, (UmlError,))


def verify(given: argparse.Namespace) -> int:
    """Verify every byte of every checkpoint."""
    lines, problems = check_run(given.run)
    for line in lines:
        print(line)
    for problem in problems:
        print_error(problem)
    return 2 if problems else 0


def reshard(given: argparse.Namespace) -> int:
    """Print the command that resumes a run on another number of ranks or at another ZeRO stage."""
    for line in reshard_run(given.run, given.ranks, given.stage):
        print(line)
    return 0


def prune(given: argparse.Namespace) -> int:
    """Remove all checkpoints except the newest, the best and the latest."""
    removed = prune_run(given.run, given.keep)
    for name, size in removed.items():
        print(f"removed {name}, {size / 1e6:,.1f} MB")
    print(f"{sum(removed.values()):,} bytes in {len(removed)} checkpoints")
    return 0


def export_run(given: argparse.Namespace) -> int:
    """Export float32 weights, or a graph for other programs, and a model card."""
    for path in export(given.run, given.out, given.checkpoint, given.to):
        print(path)
    if given.to != "safetensors":
        outputs = json.loads((given.out / GRAPH_DESCRIPTION).read_text())["outputs"]
        found = ", ".join(f"{name} {output['largest_difference']:.1e}" for name, output in outputs.items())
        print(f"largest difference from PyTorch, at sizes that the graph was not captured with: {found}")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, epilog=f"example: {EXAMPLES['verify']}")
    commands = parser.add_subparsers(required=True, metavar="verify|reshard|prune|export")
    for name, command in (("verify", verify), ("reshard", reshard), ("prune", prune), ("export", export_run)):
        one = commands.add_parser(
            name, help=command.__doc__, description=command.__doc__, epilog=f"example: {EXAMPLES[name]}"
        )
        one.set_defaults(command=command)
        one.add_argument("--run", type=run_folder, required=True, help="run folder")
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if name == "reshard":
            one.add_argument("--ranks", type=int, required=True, help="number of workers to resume with")
            one.add_argument("--stage", type=int, choices=range(4), help="ZeRO stage (default: as in the run)")
        if name == "prune":
            one.add_argument("--keep", type=int, required=True, help="number of newest valid checkpoints to keep")
        if name == "export":
            one.add_argument("--out", type=Path, required=True, help="folder to create")
            one.add_argument(
                "--to",
                choices=get_args(Format),
                default="safetensors",
                help="weights that this package reads (safetensors, default); or the whole prediction as one graph, "
                "for ONNX runtimes or for torch.export.load",
            )
            one.add_argument(
                "--checkpoint", default="best", help="best (default), best-NAME of a further validation, or latest"
            )
    return parser.parse_args(arguments)
