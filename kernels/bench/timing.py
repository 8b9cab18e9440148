"""Milliseconds of functions that take turns, on a GPU or on the CPU, and their peak memory."""

import math
from collections.abc import Callable, Mapping
from time import perf_counter

import torch

CACHE_BYTES = 2**28
"""Written between two measurements: more than any GPU's level-2 cache holds."""

SHORTEST, LONGEST, MARGIN = 1.0, 40.0, 1.5
"""Milliseconds of the burner, and how much longer it is than the CPU needs to queue what is timed."""

CALIBRATION = 20_000_000
"""Cycles, about 10 ms, whose time gives the clock of the GPU."""

FEWEST = 5
"""Rounds whose median is worth something."""

Functions = Mapping[str, Callable[[], object]]


class FunctionFailed(RuntimeError):
    """One of several functions raised; the cause says what.

    Attributes:
        name: of the function.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def in_turns(
    functions: Functions, rounds: int, warm_up: int, device: torch.device, seconds: float = math.inf
) -> dict[str, list[float]]:
    """Milliseconds of each function, round by round; all of them run once in each round.

    After so many seconds, and at least `FEWEST` rounds, no other is begun.

    On a GPU the time between two events, queued behind a burner, so that gaps between launches do not count, and with
    other data in the cache than the function's.

    Raises:
        FunctionFailed: a function raised.
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
        """Milliseconds on the GPU. The first call of a name only shows how long the CPU takes, compilation included."""
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
            # It never shrinks: a call that the CPU queued slowly once may be slow again.
            self._burner[name] = burner(queued, self._burner[name])
        else:
            self._burner[name] = SHORTEST
        return start.elapsed_time(end)


def burner(queued: float, before: float) -> float:
    """Milliseconds of the burner for a function that the CPU takes so long to queue."""
    return min(max(before, SHORTEST, MARGIN * queued), LONGEST)


def clock(device: torch.device) -> float:
    """Cycles of a multiprocessor in a second, by a kernel that counts them."""
    torch.cuda._sleep(CALIBRATION)  # wakes the GPU
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    torch.cuda._sleep(CALIBRATION)
    end.record()
    torch.cuda.synchronize(device)
    return 1e3 * CALIBRATION / start.elapsed_time(end)


def captured(function: Callable[[], object], stream: torch.cuda.Stream) -> Callable[[], object]:
    """Replays a CUDA graph of a function.

    Args:
        function: whose tensors, and whatever autograd keeps of them, were made on the stream.
        stream: on which it is captured.
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
    """Milliseconds from the call until the GPU is done: what somebody who waits for the result sees."""
    results = []
    for _ in range(rounds):
        torch.cuda.synchronize(device)
        start = perf_counter()
        function()
        torch.cuda.synchronize(device)
        results.append(1e3 * (perf_counter() - start))
    return results


def peak_mebibytes(function: Callable[[], object], device: torch.device) -> float:
    """MiB that the function takes at its peak above what was allocated before; of a GPU."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def usable(device: torch.device) -> bool:
    """Whether the device still works; a GPU's context is lost after an illegal address, say."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except Exception as error:  # of several types, by the version of torch
        print(f"after an error: {error}")
        return False
    return True
