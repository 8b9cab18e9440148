"""The options of `--dry-run` that ask about more GPUs."""

import argparse
import math

from ..run.reader import run_folder
from .links import Link, Links
from .measured import read_measured
from .report import Question

GIGABYTES_PER_SECOND = (300.0, 50.0)
"""NVLink between the GPUs of a machine, and 400 Gbit/s of InfiniBand for each machine."""

MICROSECONDS = (5.0, 10.0)
"""Latency of a message of NCCL within a machine and between machines."""


def add_scale_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `train.py`."""
    group = parser.add_argument_group("with --dry-run: predict a training on more GPUs than there are")
    group.add_argument("--gpus", type=int, metavar="N", help="predict memory, step time and efficiency on N GPUs")
    group.add_argument(
        "--measured", type=run_folder, nargs="+", metavar="RUN",
        help="short runs of the model, for its step time; best two, of different global batches",
    )  # fmt: skip
    group.add_argument("--gpus-per-machine", type=int, metavar="N", help="GPUs of each machine (default: 8)")
    group.add_argument("--gpu-memory", type=float, metavar="GB", help="memory of each GPU (default: 80)")
    two = ("WITHIN", "BETWEEN")
    group.add_argument(
        "--link-rates", type=float, nargs=2, metavar=two,
        help="GB/s in each direction between two GPUs within a machine, and between machines (default: 300 50)",
    )  # fmt: skip
    group.add_argument(
        "--link-latencies", type=float, nargs=2, metavar=two,
        help="microseconds of a message within a machine and between machines (default: 5 10)",
    )  # fmt: skip


def check_scale_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a usage error if the options do not belong together or are out of range."""
    others = ("measured", "gpus_per_machine", "gpu_memory", "link_rates", "link_latencies")
    given = [name for name in others if getattr(options, name) is not None]
    if given and options.gpus is None:
        parser.error(f"--{given[0].replace('_', '-')} needs --dry-run --gpus N")
    if options.gpus is not None and not options.dry_run:
        parser.error("--gpus needs --dry-run; a training takes --num_gpus N")
    for name in ("gpus", "gpus_per_machine", "gpu_memory", "link_rates", "link_latencies"):
        value = getattr(options, name)
        numbers = value if isinstance(value, list) else [value]
        if value is not None and not all(number > 0 and math.isfinite(number) for number in numbers):
            parser.error(f"--{name.replace('_', '-')}: use numbers above 0")


def question_of(options: argparse.Namespace) -> Question:
    """Return what the options ask.

    Raises:
        UmlError: a measured run cannot be read.
    """
    measured = [read_measured(run) for run in options.measured or ()]
    rates = options.link_rates or GIGABYTES_PER_SECOND
    latencies = options.link_latencies or MICROSECONDS
    within, between = (Link(1e-6 * late, 1e9 * rate) for late, rate in zip(latencies, rates, strict=True))
    links = Links(options.gpus_per_machine or 8, within, between)
    memory = round((options.gpu_memory or 80.0) * 1e9)
    return Question(options.gpus, links, memory, measured, links)
