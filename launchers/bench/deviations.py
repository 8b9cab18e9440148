"""Measures what each deviation of `UmlNetwork` from the published network changes: the table in uml_dist/README.md.

Each row changes one property of the published reference network (tests/support/naive_uml.py), at full width and with
the authors' initialisation. Frozen batch norms use the statistics of the image's features, as trained weights would.

    PYTHONPATH=tests/support python launchers/bench/deviations.py --size 64
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from naive_state import give_statistics
from naive_uml import NaiveUml, Switches
from published_encoders import PublishedFrozenNorm
from uml_dist.backbones.normalisation import EPSILON, group_norm
from uml_dist.recipes.uml.decoders import UNINFORMED
from uml_dist.recipes.uml.model import UmlModel
from uml_dist.recipes.uml.network import UmlOutput
from uml_kernels import opinion
from uml_shards.keyed import word

TASKS = ("classification", "segmentation")
PUBLISHED = Switches()
DEVIATIONS = {
    "frozen batch norm has an epsilon": replace(
        PUBLISHED, encoder_norm=dict.fromkeys(TASKS, partial(PublishedFrozenNorm, epsilon=EPSILON))
    ),
    "group norm in the encoders": replace(PUBLISHED, encoder_norm=dict.fromkeys(TASKS, group_norm)),
    "group norm in the decoders": replace(PUBLISHED, decoder_norm=group_norm),
    "no normalisation in the head": replace(PUBLISHED, head_norm=False),
    "edge padding in the head's depthwise convolutions": replace(PUBLISHED, head_padding="replicate"),
    "the head's 1x1 convolutions have biases": replace(PUBLISHED, head_bias=True),
    "the last layer of the head has a bias": replace(PUBLISHED, class_bias=True),
    "last stages of the encoders are not built": replace(PUBLISHED, dead_stages=False),
}
BIAS = 0.04
"""Largest bias of a convolution: torch's default for a 1x1 convolution with 512 input channels."""
COLUMNS = ("class evidence", "pixel evidence", "segmentation")


def build(switches: Switches, width: float, image: Tensor) -> NaiveUml:
    """Build the reference with these switches; each parameter depends only on its own name."""
    network = NaiveUml(UmlModel(profile="release", width=width, dropout=0.0), 3, 3, 2, switches)
    for name, parameter in network.named_parameters():
        torch.manual_seed(word(name) >> 1)
        if parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
        elif parameter.dim() == 2:
            nn.init.uniform_(parameter, -1, 1).div_(parameter.shape[1] ** 0.5)
        elif name == "instructor.out.bias":
            nn.init.constant_(parameter, UNINFORMED)
        elif isinstance(network.get_submodule(name.rpartition(".")[0]), nn.Conv2d):
            nn.init.uniform_(parameter, -BIAS, BIAS)
    network = network.double()
    give_statistics(network, image)
    return network


def columns_of(output: UmlOutput) -> dict[str, Tensor]:
    """Return the outputs that the table compares."""
    evidence = [opinion(logits).evidence for logits in (output.class_logits, output.mutual_logits)]
    return dict(zip(COLUMNS, (*evidence, output.segmentation[0]), strict=True))


def changes(width: float, size: int) -> dict[str, dict[str, float]]:
    """Return the largest change by deviation and column, as a share of the largest value of the published network."""
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        expected = columns_of(build(PUBLISHED, width, image)(image))
        found = {}
        for name, switches in DEVIATIONS.items():
            ours = columns_of(build(switches, width, image)(image))
            found[name] = {
                column: ((ours[column] - value).abs().max() / value.abs().max()).item()
                for column, value in expected.items()
            }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.0, help="width factor of all channels")
    parser.add_argument("--size", type=int, default=64, help="height and width, a multiple of 8")
    chosen = parser.parse_args(arguments)
    print(f"| deviation | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, row in changes(chosen.width, chosen.size).items():
        print(f"| {name} | {' | '.join(f'{100 * row[column]:.2g} %' for column in COLUMNS)} |")


if __name__ == "__main__":
    main()
