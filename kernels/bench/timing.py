"""Milliseconds of functions that take turns, on a GPU or on the CPU, and their peak memory."""

from collections.abc import Callable, Mapping
from time import perf_counter

import torch

CACHE_BYTES = 2**28
"""Written between two measurements: more than any GPU's level-2 cache holds."""

BURNER_CYCLES = 4_000_000
"""What the GPU first does for nothing, about 2 ms, while the CPU queues the launches that are timed."""

Functions = Mapping[str, Callable[[], object]]


def in_turns(functions: Functions, rounds: int, warm_up: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each function, round by round; all of them run once in each round.

    On a GPU the time between two events, queued behind a burner, so that gaps between launches do not count, and with
    other data in the cache than the function's.
    """
    time = _gpu_timer(device) if device.type == "cuda" else _cpu_time
    results: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + rounds):
        for name, function in functions.items():
            value = time(function)
            if turn >= warm_up:
                results[name].append(value)
    return results


def _cpu_time(function: Callable[[], object]) -> float:
    start = perf_counter()
    function()
    return 1e3 * (perf_counter() - start)


def _gpu_timer(device: torch.device) -> Callable[[Callable[[], object]], float]:
    other = torch.empty(CACHE_BYTES // 4, dtype=torch.int32, device=device)

    def time(function: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        other.zero_()
        torch.cuda._sleep(BURNER_CYCLES)
        start.record()
        function()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end)

    return time


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
