"""Timing of functions in turns on a GPU or the CPU, and their peak memory."""

import math
from collections.abc import Callable, Mapping
from time import perf_counter

import torch

CACHE_BYTES = 2**28
"""Bytes written between two measurements: more than the L2 cache of any GPU."""

SHORTEST, LONGEST, MARGIN = 1.0, 40.0, 1.5
"""Minimum and maximum milliseconds of the burner, and its length relative to the CPU time to queue the function."""

CALIBRATION = 20_000_000
"""Cycles, about 10 ms, used to measure the clock of the GPU."""

FEWEST = 5
"""Minimum number of rounds for a meaningful median."""

Functions = Mapping[str, Callable[[], object]]


class FunctionFailed(RuntimeError):
    """One of several functions raised an error, which is the cause of this one.

    Attributes:
        name: name of the function.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def in_turns(
    functions: Functions, rounds: int, warm_up: int, device: torch.device, seconds: float = math.inf
) -> dict[str, list[float]]:
    """Measure the milliseconds of each function in each round; all functions run once per round.

    On a GPU it measures the time between two events. They are queued behind a kernel that keeps the GPU busy (the
    burner), so that gaps between launches do not count, and the cache is overwritten before.

    Args:
        functions: functions by name.
        rounds: number of measured rounds.
        warm_up: number of unmeasured rounds before them.
        device: a GPU or the CPU.
        seconds: time after which no further round starts, except that at least `FEWEST` rounds are measured.

    Raises:
        FunctionFailed: a function raised an error.
    """
    time = _GpuTimer(device).time if device.type == "cuda" else _cpu_time
    results: dict[str, list[float]] = {name: [] for name in functions}
    begun = perf_counter()
    for turn in range(warm_up + rounds):
        if turn >= warm_up + FEWEST and perf_counter() - begun > seconds:
            break
        for name, function in functions.items():
            try:
                value = time(name, function)
            except Exception as error:
                raise FunctionFailed(name) from error
            if turn >= warm_up:
                results[name].append(value)
    return results


def _cpu_time(name: str, function: Callable[[], object]) -> float:
    start = perf_counter()
    function()
    return 1e3 * (perf_counter() - start)


class _GpuTimer:
    """Times functions behind a burner that keeps the GPU busy while the CPU queues them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._other = torch.empty(CACHE_BYTES // 4, dtype=torch.int32, device=device)
        self._cycles = clock(device) / 1e3
        self._burner: dict[str, float] = {}

    def time(self, name: str, function: Callable[[], object]) -> float:
        """Return the milliseconds on the GPU; the first call of a name may compile and does not set the burner."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._other.zero_()
        torch.cuda._sleep(int(self._burner.get(name, SHORTEST) * self._cycles))
        begun = perf_counter()
        start.record()
        function()
        end.record()
        queued = 1e3 * (perf_counter() - begun)
        torch.cuda.synchronize(self.device)
        if name in self._burner:
            # It never shrinks, because a call that the CPU queued slowly once may be slow again
            self._burner[name] = burner(queued, self._burner[name])
        else:
            self._burner[name] = SHORTEST
        return start.elapsed_time(end)


def burner(queued: float, before: float) -> float:
    """Return the milliseconds of the burner for a function that the CPU queues in `queued` milliseconds."""
    return min(max(before, SHORTEST, MARGIN * queued), LONGEST)


def clock(device: torch.device) -> float:
    """Measure the cycles per second of a multiprocessor by a kernel that counts them."""
    torch.cuda._sleep(CALIBRATION)  # wakes the GPU
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    torch.cuda._sleep(CALIBRATION)
    end.record()
    torch.cuda.synchronize(device)
    return 1e3 * CALIBRATION / start.elapsed_time(end)


def captured(function: Callable[[], object], stream: torch.cuda.Stream) -> Callable[[], object]:
    """Capture a function in a CUDA graph and return the function that replays it.

    Args:
        function: function to capture; its tensors and autograd graphs must have been created on the stream.
        stream: stream on which it is captured.
    """
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        function()
    return graph.replay


def with_launches(function: Callable[[], object], rounds: int, device: torch.device) -> list[float]:
    """Measure the milliseconds from the call until the GPU has finished, including launches."""
    results = []
    for _ in range(rounds):
        torch.cuda.synchronize(device)
        start = perf_counter()
        function()
        torch.cuda.synchronize(device)
        results.append(1e3 * (perf_counter() - start))
    return results


def peak_mebibytes(function: Callable[[], object], device: torch.device) -> float:
    """Measure the peak MiB of GPU memory that the function allocates in addition to what was allocated before."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def usable(device: torch.device) -> bool:
    """Return whether the device still works; a GPU's context is lost after an illegal address, for example."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except Exception as error:  # the type depends on the version of torch
        print(f"after an error: {error}")
        return False
    return True
