"""Measures one setting: times of the library's call beside torch's own operations, memory, and the limit it meets."""

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
"""Between our float32 and eager's, relative to the largest number of a tensor: a wrong kernel is off by more."""

WITH_GRAPHS = 512
"""The largest side whose calls are also captured: on larger maps eager's graphs take all of a GPU's memory."""


SECONDS = 3.0
"""Of one mode of all providers, compilation included: eager takes so long on large maps that fewer rounds must do."""


class WrongResultError(RuntimeError):
    """The library and torch's operations disagree."""


def tuple_of(result: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """One tensor, or several, as a tuple."""
    return (result,) if isinstance(result, torch.Tensor) else result


def modes_of(function: Function, inputs: Inputs) -> dict[str, Callable[[], object]]:
    """Forward with a graph, backward through a graph that is there, and both; forward alone where nothing is asked."""

    def forward() -> tuple[torch.Tensor, ...]:
        return tuple_of(function(inputs))

    there = forward()
    asked = [i for i, one in enumerate(there) if one.requires_grad]
    if not asked:
        return {"forward": forward}
    upstream = [torch.ones_like(there[i]) for i in asked]

    def backward(outputs: tuple[torch.Tensor, ...] = there, keep: bool = True) -> object:
        return torch.autograd.grad([outputs[i] for i in asked], inputs.maps, upstream, retain_graph=keep)

    return {"forward": forward, "backward": backward, "full": lambda: backward(forward(), keep=False)}


def copies(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> dict[str, Callable[[], object]]:
    """Copies of as many bytes as must be read and written: maps, target and results; backward gradients too."""
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
    """Eager's composition under torch.compile."""
    return modes_of(torch.compile(WORKLOADS[setting.workload].eager, dynamic=False, backend=backend), inputs)


def providers(setting: Setting, device: torch.device, backend: str) -> dict[str, Modes]:
    """By provider and mode, what is timed; all of one setting share its inputs.

    Args:
        setting: of the maps.
        device: of the maps.
        backend: of torch.compile; empty: without it.
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
    """Say that a provider is left out, and make room; raises where the device is lost."""
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    print(f"{label(setting)}: {name} is left out: {reason[:200]}")
    if not usable(device):
        raise error
    release(device)


def release(device: torch.device) -> None:
    """Free unreferenced memory, that of CUDA graphs' own pools too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def label(setting: Setting) -> str:
    """Of one line."""
    shape = f"{setting.batch} x {setting.classes} x {setting.side}²"
    return f"{setting.workload} {shape} {setting.dtype} {setting.layout}"


def compare(setting: Setting, device: torch.device) -> None:
    """Hold results and gradients against eager's.

    Raises:
        WrongResultError: they differ by more than the tolerance.
    """
    inputs, workload = make_inputs(setting, device), WORKLOADS[setting.workload]
    found, expected = (_with_gradients(function, inputs) for function in (workload.ours, workload.eager))
    for name, ours, theirs in zip(("result", "gradient"), found, expected, strict=True):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            error = (one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1e-30)
            if not error.item() <= TOLERANCE:
                raise WrongResultError(f"{label(setting)}: {name} {number} is {error.item():.2g} off eager's")


def _with_gradients(function: Function, inputs: Inputs) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    outputs = tuple_of(function(inputs))
    asked = [one for one in outputs if one.requires_grad]
    gradients = torch.autograd.grad(asked, inputs.maps, [torch.ones_like(one) for one in asked]) if asked else ()
    return outputs, gradients


def measure(
    setting: Setting,
    device: torch.device,
    rounds: int,
    backend: str = "",
    demands: Sequence[Demand] = (),
    machine: Machine | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of `report.COLUMNS` for one setting, each as soon as it is measured.

    Args:
        setting: of the maps.
        device: a GPU or the CPU.
        rounds: of all providers.
        backend: of torch.compile for eager's composition; empty: without it.
        demands: of the launches of our call, where they are known.
        machine: the speeds to which these are held.

    Raises:
        WrongResultError: ours differs from eager.
        FunctionFailed: ours raised.
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
    whole = modes[-1]
    for name, one in found.items():
        waited = with_launches(one[whole], min(rounds, 10), device)
        yield note(waited, provider=name, mode=whole, metric="time with launches", unit="ms")
        if name != "copy":
            peak = peak_mebibytes(one[whole], device)
            yield note([peak], provider=name, mode=whole, metric="memory", unit="MiB")
    if setting.side <= WITH_GRAPHS:
        names = set(found)
        del found, one
        yield from _graphs(setting, device, rounds, backend if "compiled" in names else "", note)


def _times(
    setting: Setting, found: dict[str, Modes], mode: str, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds by provider; those other than ours that cannot run are taken from `found`."""
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
    """The least time of the launches, the limit that they meet, and what share of the time each limit takes."""
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
    """Times of replayed CUDA graphs: what the kernels take without the gaps between launches.

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
