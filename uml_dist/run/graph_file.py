"""Writes a captured prediction as ONNX or as a program of torch.export, and compares the file with PyTorch."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from uml_shards.durable import sync, write_text

from ..errors import UmlError, refusing
from .graph import INPUT, SPACE, Graph, class_names, differences
from .load import GRAPH_DESCRIPTION, Run

GraphFormat = Literal["onnx", "torch-export"]
FILES: dict[GraphFormat, str] = {"onnx": "model.onnx", "torch-export": "model.pt2"}
TOLERANCE = 1e-4
"""Largest difference of a probability or vacuity from that of PyTorch."""

MAP_TOLERANCE = 1e-2
"""The same of another map, which can enlarge the rounding of float32: the mask by distance of `ugmcl` is a sigmoid of
slope 1500 and differs by 7e-4 where the distance is near 0."""

OPSET = 20
NAME_EXTRA = "install the extra by pip install 'uml-dist[onnx]'"

IMAGE_VALUES = "unsigned integers divided by the largest value of their type; mean and deviation are in the graph"
VOLUME_VALUES = (
    "intensities as the shards hold them, unsigned integers divided by the largest value of their type; mean and "
    "deviation are in the graph"
)

Call = Callable[[Tensor], Mapping[str, Tensor]]


def check_packages(kind: GraphFormat) -> None:
    """Check that the packages that write a format are there.

    Raises:
        UmlError: one is missing.
    """
    for name in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        try:
            __import__(name)
        except ImportError:
            raise UmlError(f"export to ONNX needs the package {name}: {NAME_EXTRA}") from None


def write_graph(folder: Path, run: Run, graph: Graph, kind: GraphFormat) -> None:
    """Write a graph and its description into a folder, and compare what the written file predicts with PyTorch.

    Raises:
        UmlError: the graph cannot be written in this format, or predicts something else.
        OSError: the files cannot be written.
    """
    path = folder / FILES[kind]
    with _quiet(), refusing(f"recipe {run.recipe.name} cannot be exported as {kind}"):
        save(graph, path)
        found = compared(graph, run.manifest.channels, open_graph(path))
    for name, difference in found.items():
        if difference > tolerance_of(name):
            raise UmlError(
                f"recipe {run.recipe.name} cannot be exported as {kind}: its {name} differs by {difference:.2g} from "
                "that of PyTorch: use --to safetensors"
            )
    sync(path)
    write_text(folder / GRAPH_DESCRIPTION, json.dumps(_description(run, graph, kind, found), indent=1) + "\n")


def save(graph: Graph, path: Path) -> None:
    """Write a graph as the file name says: `.onnx`, or `.pt2` for `torch.export.load`."""
    if path.suffix != ".onnx":
        torch.export.save(graph.program, path)
        return
    program = torch.onnx.export(
        graph.program,
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=[INPUT],
        output_names=list(graph.outputs),
    )
    assert program is not None
    program.save(path)


def open_graph(path: Path) -> Call:
    """Return the prediction in a file that `save` wrote, as a function of images on the CPU."""
    if path.suffix != ".onnx":
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def call(image: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {INPUT: image.numpy()})
        return {name: torch.as_tensor(value) for name, value in zip(names, found, strict=True)}

    return call


def compared(graph: Graph, channels: int, call: Call) -> dict[str, float]:
    """Return the largest difference of each output of a file from PyTorch, over `Graph.checked_sizes`."""
    generator, worst = torch.Generator().manual_seed(0), dict.fromkeys(graph.outputs, 0.0)
    for number, size in graph.checked_sizes():
        image = torch.rand(number, channels, *size, generator=generator)
        with torch.no_grad():
            found = differences(graph.module(image), call(image))
        worst = {name: max(worst[name], found[name]) for name in worst}
    return worst


def tolerance_of(name: str) -> float:
    """Return the largest difference from PyTorch that an output may have."""
    return TOLERANCE if name.endswith(("probability", "vacuity")) else MAP_TOLERANCE


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporters report of their own work, on standard error and in warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def _description(run: Run, graph: Graph, kind: GraphFormat, found: Mapping[str, float]) -> dict[str, Any]:
    """Return what a program needs to know to use the graph."""
    volumes = run.recipe.dimensions == 3
    windows, names = run.predictor.windows, class_names(run.recipe.manifests)
    size = list(run.sizes[run.first_stream])
    outputs = {}
    for name, axes in graph.outputs.items():
        classes = {"classes": list(names[name])} if names.get(name) else {}
        outputs[name] = {"dtype": "float32", "axes": list(axes), **classes, "largest_difference": found[name]}
    return {
        "format": kind,
        "file": FILES[kind],
        "recipe": run.recipe.name,
        "step": run.state.step,
        "weights": run.weights,
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "axes": ["batch", "channel", *SPACE[: len(size)]],
            "channels": run.manifest.channels,
            "value_range": None if volumes else [0, 1],
            "values": VOLUME_VALUES if volumes else IMAGE_VALUES,
            "size": size,
            "size_multiple": graph.multiple,
            "size_smallest": graph.smallest,
            "predicted_in": "windows" if windows is not None else "whole images",
        },
        "outputs": outputs,
        "compared_with_torch": [[number, *shape] for number, shape in graph.checked_sizes()],
    }
