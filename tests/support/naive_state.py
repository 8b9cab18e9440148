"""Converts the parameters of `UmlNetwork` to the names, shapes and channel order of `NaiveUml`."""

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
"""Parameter of a level's mixer -> its dimension of concatenated channels."""
FOURTH_MIXED = {
    "mutual.third.0.weight": 1,
    "navigator.reduce.weight": 1,
    "instructor.head.0.depthwise.weight": 0,
    "instructor.head.0.across.weight": 1,
}
"""Parameter that is applied to the fourth mixed feature -> its dimension of concatenated channels."""
EMBED = {"weight": "0.weight", "scale": "1.weight", "shift": "1.bias"}
"""Parameter of a mask embedding -> parameter of the layers of which it consists."""
HEAD = {
    "adapted": ("depthwise", "across", None),
    "published": ("depthwise", "across", "norm", None),
}
"""Layers of one block of the classification head, in order."""
UNUSED = re.compile(
    r"mixer\.\d\.channel_(query|value)\.bias|.*num_batches_tracked"
    r"|classification_encoder\.layer4\..*|segmentation_encoder\.features\.(3[4-9]|4\d)\..*"
)
"""Parameters that no output of `NaiveUml` depends on, and the redundant bias of `channel_value`."""


def naive_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a `NaiveUml` that equals a `UmlNetwork` with this state; also maps gradients."""
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
    """Permute the last `joined` channels like the channel shuffle."""
    first = value.shape[dim] - joined
    order = torch.arange(joined).reshape(-1, SHUFFLE_GROUPS).T.flatten()
    return value.index_select(dim, torch.cat((torch.arange(first), first + order)))


def fill_naive(naive: NaiveUml, network: UmlNetwork) -> None:
    """Copy the parameters of a `UmlNetwork` to a `NaiveUml`; those that match `UNUSED` are kept or set to 0."""
    missing, unexpected = naive.load_state_dict(naive_state(network.state_dict()), strict=False)
    assert unexpected == []
    assert [name for name in missing if not UNUSED.fullmatch(name)] == []
    for level in naive.mixer:
        nn.init.zeros_(level.channel_value.bias)


@torch.no_grad()
def give_statistics(network: nn.Module, image: Tensor) -> None:
    """Set the statistics of all frozen batch norms to those of an image's features, like trained weights."""

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    frozen = [norm for norm in network.modules() if isinstance(norm, FrozenBatchNorm | PublishedFrozenNorm)]
    handles = [norm.register_forward_pre_hook(measure) for norm in frozen]
    network(image)
    for handle in handles:
        handle.remove()
