"""A run's prediction as one graph of torch's own operators: an image in, probabilities and vacuities out."""

import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.sample import IGNORE

from ..batch import Batch, Prediction
from ..errors import UmlError, refusing
from ..recipes import Recipe
from .data import Size
from .load import Run

INPUT = "image"
SPACE = ("height", "width", "depth")
BATCH = 2
"""Images that a graph is captured with; it accepts any number."""

SMALLEST_STD = 1e-6
"""As `uml_dist.batch.normalise`."""


class PredictionGraph(nn.Module):
    """The prediction of a recipe for images that are not normalised yet.

    Args:
        recipe: the recipe.
        networks: the networks that it predicts with, by name, in evaluation mode.
        statistics: statistics by which images are normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, networks: Mapping[str, nn.Module], statistics: Statistics) -> None:
        super().__init__()
        self.recipe = recipe
        self.networks = nn.ModuleDict({name: _with_constants(network) for name, network in networks.items()})
        of_channels = (-1, *(1,) * recipe.dimensions)
        self.register_buffer("mean", torch.tensor(statistics.mean).view(of_channels))
        self.register_buffer("std", torch.tensor(statistics.std).clamp(min=SMALLEST_STD).view(of_channels))
        self.eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict images (B, channels, *S) float32, unsigned integers divided by their largest value.

        Returns:
            The tensors of `Prediction` by the names of its fields, and its maps by their titles with underscores.
        """
        batch = _batch_of((image - self.mean) / self.std)
        return tensors_of(self.recipe.predict(batch, dict(self.networks.items())))


def tensors_of(prediction: Prediction) -> dict[str, Tensor]:
    """Return the tensors of a prediction by name; names of maps are their titles with underscores."""
    maps = {re.sub(r"\W+", "_", title).strip("_").lower(): value for title, value in prediction.maps.items()}
    values = {one.name: getattr(prediction, one.name) for one in fields(prediction)}
    return maps | {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _with_constants(network: nn.Module) -> nn.Module:
    """Return a copy whose flags, buffers of one bool, are Python's: a graph cannot branch on a tensor."""
    network = deepcopy(network).requires_grad_(False)
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.dtype == torch.bool and buffer.dim() == 0:
                delattr(module, name)
                setattr(module, name, bool(buffer))
    return network


def _batch_of(image: Tensor) -> Batch:
    number = image.shape[0]  # len() would make it a constant of the graph
    return Batch(
        image=image,
        mask=image.new_full((number, *image.shape[2:]), IGNORE, dtype=torch.uint8),
        label=image.new_full((number,), -1, dtype=torch.int64),
        weight=image.new_ones(number),
        rng_key=image.new_zeros(number, dtype=torch.int64),
        position=image.new_zeros(number, dtype=torch.int64),
        keys=(),
    )


@dataclass(frozen=True)
class Graph:
    """A captured prediction.

    Attributes:
        module: the prediction as a module.
        program: the captured graph.
        size: size of the images of training, rounded up to what the graph takes.
        captured: size of the images that it was captured with.
        multiple: number of which every side of an image must be a multiple.
        smallest: smallest side of an image.
        outputs: name of each output -> its axes.
    """

    module: PredictionGraph
    program: ExportedProgram
    size: Size
    captured: Size
    multiple: int
    smallest: int
    outputs: Mapping[str, tuple[str, ...]]

    def checked_sizes(self) -> list[tuple[int, Size]]:
        """Return two numbers and sizes of images, none of which the graph was captured with."""
        smaller = tuple(rounded(side // 2, self.multiple, self.smallest) for side in self.captured)
        own = self.size if self.size != self.captured else tuple(side + self.multiple for side in self.size)
        return [(BATCH + 1, smaller), (BATCH - 1, own)]


def rounded(side: int, multiple: int, least: int) -> int:
    """Return a side rounded up to a multiple, and to the smallest side."""
    return max(-(-side // multiple) * multiple, least)


def capture(run: Run) -> Graph:
    """Capture the prediction of a run, on the CPU and in float32, for any number and size of images.

    Raises:
        UmlError: the recipe's prediction cannot be captured, or the run predicts images that are smaller than a graph
            can take.
    """
    run = run.to(torch.device("cpu"))
    size, least = run.sizes[run.first_stream], run.recipe.side_smallest
    if any(side <= least - run.recipe.side_multiple for side in size):  # fewer blocks, rounded up
        shape = " x ".join(map(str, size))
        raise UmlError(
            f"run {run.path} predicts images of {shape}, and the sides of a graph's images are {least} or more: use "
            "--to safetensors"
        )
    module = PredictionGraph(run.recipe, run.predictor.networks, run.statistics)
    return captured(module, run.manifest.channels, size)


def captured(module: PredictionGraph, channels: int, size: Sequence[int]) -> Graph:
    """Capture a prediction; see `capture`.

    Args:
        module: the prediction.
        channels: channels of an image.
        size: size of the images of training.
    """
    multiple, smallest = module.recipe.side_multiple, module.recipe.side_smallest
    own = tuple(rounded(side, multiple, smallest) for side in size)
    space = SPACE[: len(own)]
    # Few blocks suffice where the network is known to take any number of them; sides that differ show mistaken axes.
    traced = own if multiple == 1 else tuple((4 + axis) * multiple for axis in range(len(own)))
    image = torch.zeros(BATCH, channels, *traced)
    # Sides as multiples, so that every division in the network has no remainder whatever the size.
    sides = {
        axis: Dim(name) if multiple == 1 else multiple * Dim(f"{name}_blocks") for axis, name in enumerate(space, 2)
    }
    with torch.no_grad(), refusing(f"recipe {module.recipe.name} cannot be exported as a graph"):
        program = torch.export.export(module, (image,), dynamic_shapes=({0: Dim("batch"), **sides},), strict=False)
    for part in program.graph_module.modules():  # regions without autocast are graphs of their own
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # with paths of this machine
    outputs = {name: _axes(name, value.dim(), space) for name, value in _outputs(program).items()}
    return Graph(module, program, own, traced, multiple, smallest, outputs)


def _outputs(program: ExportedProgram) -> dict[str, Any]:
    """Return the outputs of a program by name, as tensors without values."""
    (node,) = (node for node in program.graph.nodes if node.op == "output")
    values, spec = [value.meta["val"] for value in node.args[0]], program.call_spec.out_spec
    assert spec is not None
    return pytree.tree_unflatten(values, spec)


def _axes(name: str, number: int, space: Sequence[str]) -> tuple[str, ...]:
    """Return the names of an output's axes."""
    if number == 2 and name.startswith("image"):
        return ("batch", "class")
    middle = () if number <= 1 + len(space) else ("lesion" if name.startswith("lesion") else "class",)
    return ("batch", *middle, *space)[:number]


def class_names(manifests: Mapping[str, Manifest]) -> dict[str, tuple[str, ...]]:
    """Return the names along the axis `class` or `lesion` of each output, from the first stream that states them."""

    def first(*names: str) -> tuple[str, ...]:
        found = (getattr(manifest, name) for manifest in manifests.values() for name in names)
        return next(filter(None, found), ())

    return {
        "image_probability": first("classes"),
        "pixel_probability": first("mask_classes"),
        "lesion_probability": first("mask_names"),
    }


def differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest absolute difference of each output; infinity where a shape differs or one is not a number."""
    found = {}
    for name, expected in one.items():
        value, worst = other.get(name), math.inf
        if value is not None and value.shape == expected.shape:
            worst = float((value.double() - expected.double()).abs().max())
        found[name] = math.inf if math.isnan(worst) else worst
    return found
