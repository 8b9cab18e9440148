"""Measures one setting: times of the library's call and of torch's operations, memory, and the limiting resource."""

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from report import measured
from roofline import Demand, Machine, by_mode, least
from timing import FunctionFailed, captured, in_turns, peak_mebibytes, usable, with_launches
from workloads import WORKLOADS, Function, Inputs, Setting, make_inputs

Modes = Mapping[str, Callable[[], object]]

TOLERANCE = 1e-3
"""Maximum difference of our float32 results from eager's, relative to a tensor's largest value; errors are larger."""

WITH_GRAPHS = 512
"""Largest side for which calls are also captured: on larger maps eager's graphs take all of a GPU's memory."""


SECONDS = 3.0
"""Time limit for one mode of all providers, compilation included: eager is slow on large maps, so fewer rounds run."""


class WrongResultError(RuntimeError):
    """The results of the library and of torch's operations differ."""


def tuple_of(result: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return one tensor or several as a tuple."""
    return (result,) if isinstance(result, torch.Tensor) else result


def modes_of(function: Function, inputs: Inputs) -> dict[str, Callable[[], object]]:
    """Return functions for forward with a graph, backward through an existing graph, and both.

    A function without gradient has only a forward mode.
    """

    def forward() -> tuple[torch.Tensor, ...]:
        return tuple_of(function(inputs))

    existing = forward()
    differentiable = [i for i, one in enumerate(existing) if one.requires_grad]
    if not differentiable:
        return {"forward": forward}
    upstream = [torch.ones_like(existing[i]) for i in differentiable]

    def backward(outputs: tuple[torch.Tensor, ...] = existing, keep: bool = True) -> object:
        return torch.autograd.grad([outputs[i] for i in differentiable], inputs.maps, upstream, retain_graph=keep)

    return {"forward": forward, "backward": backward, "full": lambda: backward(forward(), keep=False)}


def copies(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> dict[str, Callable[[], object]]:
    """Return copies that read and write as many bytes as maps, target and results, and in backward the gradients."""
    device = inputs.target.device
    maps = sum(one.numel() * one.element_size() for one in inputs.maps)
    forward = maps + inputs.target.numel() + sum(one.numel() * one.element_size() for one in outputs)
    sizes = {"forward": forward, "backward": forward + maps, "full": 2 * forward + maps}
    functions: dict[str, Callable[[], object]] = {}
    for mode, size in sizes.items():
        source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
        functions[mode] = partial(torch.empty_like(source).copy_, source)
    return functions


def compiled_modes(setting: Setting, inputs: Inputs, backend: str) -> Modes:
    """Return the modes of eager's composition under torch.compile."""
    return modes_of(torch.compile(WORKLOADS[setting.workload].eager, dynamic=False, backend=backend), inputs)


def providers(setting: Setting, device: torch.device, backend: str) -> dict[str, Modes]:
    """Return the functions to time by provider and mode; all share the same inputs.

    Args:
        setting: workload, shapes and dtypes.
        device: device of the maps.
        backend: backend of torch.compile; empty to omit it.
    """
    inputs, workload = make_inputs(setting, device), WORKLOADS[setting.workload]
    builders: dict[str, Callable[[], Modes]] = {
        "ours": lambda: modes_of(workload.ours, inputs),
        "eager": lambda: modes_of(workload.eager, inputs),
        "copy": lambda: copies(inputs, tuple_of(workload.ours(inputs))),
    }
    if backend:
        builders["compiled"] = lambda: compiled_modes(setting, inputs, backend)
    found: dict[str, Modes] = {}
    for name, build in builders.items():
        try:
            found[name] = build()
        except Exception as error:
            if name == "ours":
                raise
            _without(setting, name, error, device)
    return found


def _without(setting: Setting, name: str, error: BaseException, device: torch.device) -> None:
    """Report that a provider is skipped, and free its memory; raise the error if the device is lost."""
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    print(f"{label(setting)}: {name} is skipped: {reason[:200]}")
    if not usable(device):
        raise error
    release(device)


def release(device: torch.device) -> None:
    """Free unreferenced memory, including the pools of CUDA graphs."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def label(setting: Setting) -> str:
    """Return a one-line name of the setting."""
    shape = f"{setting.batch} x {setting.classes} x {setting.side}²"
    return f"{setting.workload} {shape} {setting.dtype} {setting.layout}"


def compare(setting: Setting, device: torch.device) -> None:
    """Compare results and gradients with eager's.

    Raises:
        WrongResultError: they differ by more than the tolerance.
    """
    inputs, workload = make_inputs(setting, device), WORKLOADS[setting.workload]
    found, expected = (_with_gradients(function, inputs) for function in (workload.ours, workload.eager))
    for name, ours, theirs in zip(("result", "gradient"), found, expected, strict=True):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            error = (one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1e-30)
            if not error.item() <= TOLERANCE:
                raise WrongResultError(f"{label(setting)}: {name} {number} differs from eager's by {error.item():.2g}")


def _with_gradients(function: Function, inputs: Inputs) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    outputs = tuple_of(function(inputs))
    differentiable = [one for one in outputs if one.requires_grad]
    if not differentiable:
        return outputs, ()
    return outputs, torch.autograd.grad(differentiable, inputs.maps, [torch.ones_like(one) for one in differentiable])


def measure(
    setting: Setting,
    device: torch.device,
    rounds: int,
    backend: str = "",
    demands: Sequence[Demand] = (),
    machine: Machine | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure one setting and yield each row of `report.COLUMNS` immediately.

    Args:
        setting: workload, shapes and dtypes.
        device: a GPU or the CPU.
        rounds: rounds in which all providers take turns.
        backend: backend of torch.compile for eager's composition; empty to omit it.
        demands: resource demands of the launches of our call, if known.
        machine: speeds with which the demands are compared.

    Raises:
        WrongResultError: our results differ from eager's.
        FunctionFailed: our call raised an error.
    """
    if setting.dtype == "float32" and setting.side <= WITH_GRAPHS:
        compare(setting, device)
    words = {
        "kernel": setting.workload, "classes": setting.classes, "dtype": setting.dtype, "layout": setting.layout,
        "batch": setting.batch, "height": setting.side, "width": setting.side,
    }  # fmt: skip
    note = partial(measured, device, **words)
    found = providers(setting, device, backend)
    modes = list(found["ours"])
    for mode in modes:
        times = _times(setting, found, mode, rounds, device)
        for name, values in times.items():
            yield note(values, provider=name, mode=mode, metric="time", unit="ms")
        if demands and machine is not None:
            yield from _shares(note, mode, times["ours"], by_mode(demands)[mode], machine)
    if device.type != "cuda":
        return
    last = modes[-1]
    for name, one in found.items():
        waited = with_launches(one[last], min(rounds, 10), device)
        yield note(waited, provider=name, mode=last, metric="time with launches", unit="ms")
        if name != "copy":
            peak = peak_mebibytes(one[last], device)
            yield note([peak], provider=name, mode=last, metric="memory", unit="MiB")
    if setting.side <= WITH_GRAPHS:
        names = set(found)
        del found, one
        yield from _graphs(setting, device, rounds, backend if "compiled" in names else "", note)


def _times(
    setting: Setting, found: dict[str, Modes], mode: str, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the milliseconds by provider; other providers that cannot run are removed from `found`."""
    while True:
        try:
            functions = {name: one[mode] for name, one in found.items()}
            return in_turns(functions, rounds, min(5, rounds), device, SECONDS)
        except FunctionFailed as failed:
            if failed.name == "ours":
                raise
            del found[failed.name]
            _without(setting, failed.name, failed.__cause__ or failed, device)


def _shares(
    note: Callable[..., dict[str, Any]], mode: str, times: Sequence[float], demands: Sequence[Demand], machine: Machine
) -> Iterator[dict[str, Any]]:
    """Yield rows of the minimum time of the launches, their limit, and the share of the time that each limit takes."""
    bound = least(demands, machine)
    for one in demands:
        alone = least([one], machine)
        words = {"provider": one.kernel, "mode": mode, "metric": "least time", "unit": "ms", "limit": alone.limit}
        if mode != "full":
            yield note([alone.milliseconds], **words)
    known = {"provider": "ours", "mode": mode, "limit": bound.limit}
    yield note([bound.milliseconds], **known, metric="least time", unit="ms")
    figures = {"limit": bound.milliseconds, **bound.by_limit}
    for name, value in figures.items():
        if not math.isnan(value):
            yield note([value / time for time in times], **known, metric=f"share of {name}", unit="1")


def _graphs(
    setting: Setting, device: torch.device, rounds: int, backend: str, note: Callable[..., dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield times of replayed CUDA graphs, which have no gaps between launches.

    A provider that cannot be captured has no row.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a backward pass runs on the stream of its forward
        found = providers(setting, device, backend)
    modes = list(found["ours"])
    replays: dict[str, Modes] = {}
    for name, one in found.items():
        try:
            replays[name] = {mode: captured(one[mode], stream) for mode in modes}
        except Exception as error:
            _without(setting, f"a graph of {name}", error, device)
    for mode in modes if replays else ():
        for name, values in _times(setting, replays, mode, min(rounds, 10), device).items():
            yield note(values, provider=name, mode=mode, metric="graph", unit="ms")
