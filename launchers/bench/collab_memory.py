"""Measure the memory of a training step of collab for each image, by network and size: `make bench-collab-memory`.

The networks are on torch's meta device, which computes shapes only: any size takes seconds on any machine. The bytes of
an image are the difference between two sizes of the batch, so parameters, gradients and moments do not enter. They
are those of the tensors in float32, without what a convolution needs internally.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from live_memory import LiveMemory
from uml_dist.backbones.normalisation import group_norm
from uml_dist.errors import UmlError
from uml_dist.nn.frozen import frozen
from uml_dist.recipes.collab.discriminator import Discriminator
from uml_dist.recipes.collab.generator import LesionGenerator
from uml_dist.recipes.collab.grader import Grader
from uml_dist.recipes.collab.trunk import Stride, build_trunk
from uml_shards.durable import replace_text
from uml_shards.errors import ShardError, run_command
from uml_shards.output import keep_output
from uml_shards.text import csv_table

RGB, GRADES = 3, 5
MEBI = 2**20
BATCHES = (8, 9)
"""Large enough for activations to decide when memory is at its peak, not the gradients of parameters."""
STRIDES: tuple[Stride, ...] = (1, 2, 4)
FORMS = {
    "all lesions together": {"one_by_one": False},
    "one by one": {},
    "own features, together": {"given": False, "one_by_one": False},
    "own features, one by one": {"given": False, "checkpointing": True},
}
"""Form of the attention -> settings. "together" is the form without restructuring."""


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        size: side of the images.
        width: channels of the first stage of each network.
        lesions: number of lesions.
    """

    size: int
    width: int
    lesions: int


@dataclass(frozen=True)
class Measured:
    """Bytes of an image in one step.

    Attributes:
        held: at the end of the forward pass, for backward.
        peak: at the largest moment of the step.
    """

    held: int
    peak: int


Forward = Callable[[Tensor, Tensor], Tensor]
"""Maps images and lesion maps to a scalar to descend."""


def generator(setting: Setting, adversary: bool, checkpointing: bool = False) -> Forward:
    """Return the step of the generator, on its own or against the discriminator."""
    network = LesionGenerator(RGB, setting.lesions, setting.width, "plain", group_norm, checkpointing=checkpointing)
    judge = frozen(Discriminator(setting.lesions + RGB, setting.width, group_norm))

    def forward(image: Tensor, maps: Tensor) -> Tensor:
        logits = network(image)
        return judge(torch.cat([logits.sigmoid(), image], 1)).sum() if adversary else logits.sum()

    return forward


def discriminator(setting: Setting) -> Forward:
    """Return the step of the discriminator."""
    network = Discriminator(setting.lesions + RGB, setting.width, group_norm)
    return lambda image, maps: network(torch.cat([maps, image], 1)).sum()


def grader(setting: Setting, stride: Stride) -> Forward:
    """Return the step of the grader without attention."""
    network = build_grader(setting, stride)
    return lambda image, maps: network(image).logits.sum()


def attention(
    setting: Setting, stride: Stride, given: bool = True, one_by_one: bool = True, checkpointing: bool = False
) -> Forward:
    """Return the step of the grader with attention, by the features of a frozen copy if `given`, or by its own."""
    network = build_grader(setting, stride, one_by_one, checkpointing)
    before = build_grader(setting, stride).requires_grad_(False)

    def forward(image: Tensor, maps: Tensor) -> Tensor:
        return network(image, maps, before.features(image) if given else None).logits.sum()

    return forward


def build_grader(setting: Setting, stride: Stride, one_by_one: bool = True, checkpointing: bool = False) -> Grader:
    """Build the grader with the small CNN."""
    trunk = build_trunk("small_cnn", RGB, setting.width, stride, group_norm)
    return Grader(
        trunk,
        setting.lesions,
        GRADES,
        setting.width,
        group_norm,
        one_by_one=one_by_one,
        checkpointing=checkpointing,
    )


def steps(setting: Setting) -> dict[tuple[str, str], Callable[[], Forward]]:
    """Return what builds each step, by (stage, form)."""
    found: dict[tuple[str, str], Callable[[], Forward]] = {
        ("generator", "stored"): partial(generator, setting, False),
        ("generator", "checkpointing"): partial(generator, setting, False, True),
        ("generator against the discriminator", "stored"): partial(generator, setting, True),
        ("discriminator", "stored"): partial(discriminator, setting),
    }
    for stride in STRIDES:
        found[f"grader, stride {stride}", "stored"] = partial(grader, setting, stride)
        found |= {
            (f"attention, stride {stride}", form): partial(attention, setting, stride, **settings)
            for form, settings in FORMS.items()
        }
    return found


def measure(build: Callable[[], Forward], setting: Setting) -> Measured:
    """Return the bytes that one more image adds to a step."""
    smaller, larger = (_step(build, setting, batch) for batch in BATCHES)
    return Measured(larger.held - smaller.held, larger.peak - smaller.peak)


def _step(build: Callable[[], Forward], setting: Setting, batch: int) -> Measured:
    with torch.device("meta"):
        forward = build()
        image = torch.empty(batch, RGB, setting.size, setting.size)
        maps = torch.empty(batch, setting.lesions, setting.size, setting.size)
        with LiveMemory() as memory:
            loss = forward(image, maps)
            held = memory.now
            loss.backward()
    return Measured(held, memory.peak)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=(320, 640), help="sides of images (default: 320 640)")
    parser.add_argument("--width", type=int, default=32, help="channels of the first stages (default: 32)")
    parser.add_argument("--lesions", type=int, default=4, help="number of lesions (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of collab_memory.csv (runs/bench)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code: 0 success, 2 something must be changed."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Measure every step at every size."""
    if any(size < 32 or size % 16 for size in options.sizes):
        raise UmlError("--sizes must be multiples of 16, at least 32")
    if options.width < 8 or options.width % 2 or options.lesions < 1:
        raise UmlError("--width must be even and at least 8, and --lesions at least 1")
    rows = [["stage", "form", "size", "held_bytes", "peak_bytes"]]
    print(f"MiB for each image, width {options.width}, {options.lesions} lesions\n")
    print(f"{'':<38}{'':<26}{'size':>6}{'held':>10}{'peak':>10}")
    for size in options.sizes:
        setting = Setting(size, options.width, options.lesions)
        for (stage, form), build in steps(setting).items():
            found = measure(build, setting)
            rows.append([stage, form, str(size), str(found.held), str(found.peak)])
            print(f"{stage:<38}{form:<26}{size:>6}{found.held / MEBI:>10.1f}{found.peak / MEBI:>10.1f}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "collab_memory.csv"
    replace_text(path, csv_table(rows))
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
