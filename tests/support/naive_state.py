"""The parameters of `UmlNetwork` under the names, in the shapes and in the channel order of `NaiveUml`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from naive_uml import SHUFFLE_GROUPS, NaiveUml
from published_encoders import PublishedFrozenNorm
from uml_dist.backbones.normalisation import FrozenBatchNorm
from uml_dist.recipes.uml.network import UmlNetwork

JOINED = {
    "channel_query": 1, "channel_value": 1, "channel_out": 0, "channel_norm": 0, "place_query": 1, "place_value": 1,
    "out": 1,
}  # fmt: skip
"""Parameters of a level's mixer -> their dimension of joined channels."""
FOURTH_MIXED = {
    "mutual.third.0.weight": 1,
    "navigator.reduce.weight": 1,
    "instructor.head.0.depthwise.weight": 0,
    "instructor.head.0.across.weight": 1,
}
"""Parameters that apply to the fourth mixed feature, which is joined channels too -> their dimension of them."""
EMBED = {"weight": "0.weight", "scale": "1.weight", "shift": "1.bias"}
"""Parameters of an embedding of a mask -> those of the layers that it consists of."""
HEAD = {
    "adapted": ("depthwise", "across", None),
    "published": ("depthwise", "across", "norm", None),
}
"""What the layers of the classification's head are, in turn."""
UNUSED = re.compile(
    r"mixer\.\d\.channel_(query|value)\.bias|.*num_batches_tracked"
    r"|classification_encoder\.layer4\..*|segmentation_encoder\.features\.(3[4-9]|4\d)\..*"
)
"""What no output of `NaiveUml` depends on; and the bias of `channel_value`, which that of `channel_out` absorbs."""


def naive_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What makes a `NaiveUml` the same function as a `UmlNetwork` with this state; also maps gradients."""
    joined = 2 * len(state["mixer.levels.3.project_classified"])
    head = HEAD["published" if "instructor.head.2.weight" in state else "adapted"]
    naive = {}
    for name, value in state.items():
        if name.startswith("mixer.levels."):
            name, value = _of_mixer(name, value, joined)
        elif ".embed." in name:
            before, _, parameter = name.rpartition(".embed.")
            name, value = f"{before}.embed.{EMBED.get(parameter, parameter)}", _as_convolution(value)
        elif name.startswith("instructor.head."):
            number, parameter = name.removeprefix("instructor.head.").split(".")
            block, layer = divmod(int(number), len(head))
            name = f"instructor.head.{block}.{head[layer]}.{parameter}"
        naive[name] = _shuffled(value, FOURTH_MIXED[name], joined) if name in FOURTH_MIXED else value
    return naive


def _of_mixer(name: str, value: Tensor, joined: int) -> tuple[str, Tensor]:
    level, part, *rest = name.removeprefix("mixer.levels.").split(".")
    if part == "place_value_bias":
        part, rest = "place_value", ["bias"]
    parameter = rest[0] if rest else "weight"
    bias_of_inputs = parameter == "bias" and JOINED.get(part) == 1
    if part in JOINED and not bias_of_inputs:
        value = _shuffled(value, JOINED[part], joined)
    return f"mixer.{level}.{part}.{parameter}", _as_convolution(value)


def _as_convolution(value: Tensor) -> Tensor:
    return value[:, :, None, None] if value.dim() == 2 else value


def _shuffled(value: Tensor, dim: int, joined: int) -> Tensor:
    """The last channels, as many as joined, in the order after the channel shuffle."""
    first = value.shape[dim] - joined
    order = torch.arange(joined).reshape(-1, SHUFFLE_GROUPS).T.flatten()
    return value.index_select(dim, torch.cat((torch.arange(first), first + order)))


def fill_naive(naive: NaiveUml, network: UmlNetwork) -> None:
    """Make a `NaiveUml` the same function as a `UmlNetwork`; what `UNUSED` names keeps its values, or is 0."""
    missing, unexpected = naive.load_state_dict(naive_state(network.state_dict()), strict=False)
    assert unexpected == []
    assert [name for name in missing if not UNUSED.fullmatch(name)] == []
    for level in naive.mixer:
        nn.init.zeros_(level.channel_value.bias)


@torch.no_grad()
def give_statistics(network: nn.Module, image: Tensor) -> None:
    """Let every frozen batch norm of a network hold the statistics of an image's features, as trained weights would."""

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    frozen = [norm for norm in network.modules() if isinstance(norm, FrozenBatchNorm | PublishedFrozenNorm)]
    handles = [norm.register_forward_pre_hook(measure) for norm in frozen]
    network(image)
    for handle in handles:
        handle.remove()
