"""Compares signed distance maps with SciPy's: largest difference, and time by shape and batch.

It uses a GPU if there is one. SciPy computes inside and outside of one sample after the other on one core, as training
scripts do. The CPU code runs with one thread too. `edt` and CuPy are measured where they are installed.

    PYTHONPATH=kernels:kernels/bench:tests/support python kernels/bench/distances.py --rounds 10
"""

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from report import default_folder, measured, write_rows
from uml_kernels import signed_distance
from workloads import blobs

SHAPES, BATCHES = ((112, 112, 80), (256, 256)), (1, 2, 4)
TOLERANCE = 1e-6
"""Largest difference between our float32 map and SciPy's float64 map."""


def map_of(mask: Any, transform: Callable[[Any], Any], library: Any, erosion: Callable[..., Any]) -> Any:
    """Return the signed map of one mask from a distance transform."""
    outside, inside = transform(~mask), transform(mask)
    result = outside / outside.max() - inside / inside.max()
    return library.where(mask & ~erosion(mask, border_value=1), 0.0, result)


def by_scipy(masks: np.ndarray) -> np.ndarray:
    """Return SciPy's maps in float64."""
    transform, erosion = ndimage.distance_transform_edt, ndimage.binary_erosion
    return np.stack([map_of(mask, transform, np, erosion) for mask in masks])


def by_edt(masks: np.ndarray) -> np.ndarray:
    """Return the maps of the package `edt`."""
    import edt  # pyright: ignore[reportMissingImports]

    return np.stack([map_of(mask, edt.edt, np, ndimage.binary_erosion) for mask in masks])


def by_cupy(masks: Tensor) -> Any:
    """Return CuPy's maps on the GPU."""
    import cupy  # pyright: ignore[reportMissingImports]
    from cupyx.scipy import ndimage as on_gpu  # pyright: ignore[reportMissingImports]

    transform, erosion = on_gpu.distance_transform_edt, on_gpu.binary_erosion
    return cupy.stack([map_of(mask, transform, cupy, erosion) for mask in cupy.from_dlpack(masks)])


def providers(masks: Tensor) -> dict[str, Callable[[], object]]:
    """Return the functions to time by name."""
    known: dict[str, Callable[[], object]] = {"ours": partial(signed_distance, masks)}
    known["scipy"] = partial(by_scipy, masks.cpu().numpy())
    if importlib.util.find_spec("edt"):
        known["edt"] = partial(by_edt, masks.cpu().numpy())
    if masks.is_cuda and importlib.util.find_spec("cupy"):
        known["cupy"] = partial(by_cupy, masks)
    return known


def milliseconds(
    functions: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Measure each function in each round, from the call until the device has finished; the first round is left out."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(1 + rounds):
        for name, function in functions.items():
            start = perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append(1e3 * (perf_counter() - start))
    return times


def rows_of(shape: Sequence[int], batch: int, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Measure one shape and batch.

    Raises:
        RuntimeError: our map differs from SciPy's.
    """
    masks = blobs((batch, *shape), device)
    difference = float(np.abs(signed_distance(masks).cpu().numpy() - by_scipy(masks.cpu().numpy())).max())
    if difference > TOLERANCE:
        raise RuntimeError(f"the maps of {batch} x {tuple(shape)} differ from SciPy's by {difference:.2g}")
    size = "x".join(map(str, shape))
    words = {
        "kernel": f"signed distance {size}", "mode": "forward", "classes": 1, "dtype": "bool", "layout": "first",
        "batch": batch, "height": shape[-2], "width": shape[-1],
    }  # fmt: skip
    note = partial(measured, device, **words)
    times = milliseconds(providers(masks), rounds, device)
    rows = [note(values, provider=name, metric="time", unit="ms") for name, values in times.items()]
    return [*rows, note([difference], provider="ours", metric="largest difference from SciPy", unit="1")]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print one line for one shape and batch."""
    times = {row["provider"]: row["p50"] for row in rows if row["metric"] == "time"}
    figures = "  ".join(f"{name} {value:8.2f} ms" for name, value in times.items())
    name, batch = rows[0]["kernel"], rows[0]["batch"]
    ratio, difference = times["scipy"] / times["ours"], rows[-1]["p50"]
    print(f"{batch} x {name:28} {figures}  x{ratio:.1f} of scipy, differs by {difference:.1e}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write distances.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="rounds in turns; the median is reported")
    parser.add_argument("--quick", action="store_true", help="tiny masks, 2 rounds")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--out", type=Path, default=default_folder(), help="folder of distances.csv")
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() and not chosen.cpu else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for shape in ((10, 12, 8), (16, 16)) if chosen.quick else SHAPES:
        for batch in BATCHES[:2] if chosen.quick else BATCHES:
            new = rows_of(shape, batch, device, 2 if chosen.quick else chosen.rounds)
            show(new)
            rows += new
            write_rows(chosen.out / "distances.csv", rows)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
