"""Windows per second of a sliding-window prediction, beside MONAI's: `make bench-windows`.

Both blend the same windows of one volume with Gaussian weights; the network is MONAI's `BasicUNet` of three dimensions.
A third column is the network alone, on as many batches of windows, which shows what cutting and blending costs. The
three run alternately, so that other load on the machine affects them equally; the median is reported. It needs
`pip install 'uml-dist[bench]'`.

    python launchers/bench/windows.py --volume 96 96 64 --window 48 48 32 --batches 1 4 8
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn

from bench_machine import facts
from uml_dist.batch import Batch, Prediction
from uml_dist.config.evaluating import WindowsConfig
from uml_dist.evaluate.windows import Windows


def batch_of(image: Tensor) -> Batch:
    """Return a batch of a volume (1, 1, H, W, D) of which nothing is known."""
    one = torch.ones(1, dtype=torch.int64, device=image.device)
    mask = torch.full_like(image[:, 0], 255, dtype=torch.uint8)
    return Batch(image, mask, -one, one.float(), one, one, ("volume",))


def ways_of(network: nn.Module, image: Tensor, windows: Windows) -> tuple[dict[str, Callable[[], object]], int]:
    """Return the three ways to predict a volume, and the number of windows."""
    sizes: list[int] = []

    def predict(batch: Batch) -> Prediction:
        sizes.append(len(batch))
        return Prediction(pixel_probability=network(batch.image).softmax(1))

    batch = batch_of(image)
    windows.predict(batch, predict)
    inputs = [image.new_zeros(number, 1, *windows.size) for number in sizes]
    mode = "gaussian" if windows.weights == "gaussian" else "constant"
    overlap = [1 - step / side for step, side in zip(windows.stride, windows.size, strict=True)]

    def softmax(image: Tensor) -> Tensor:
        return network(image).softmax(1)

    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: windows.predict(batch, predict),
        "monai": lambda: sliding_window_inference(image, windows.size, windows.batch, softmax, overlap, mode),
        "network": lambda: [softmax(one) for one in inputs],
    }
    return ways, sum(sizes)


def seconds_of(ways: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each way; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append(perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the predictions, print the table and write windows.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", type=int, nargs=3, default=[144, 144, 88], help="size of the volume")
    parser.add_argument("--window", type=int, nargs=3, default=[112, 112, 80], help="size of a window, multiples of 16")
    parser.add_argument("--stride", type=int, nargs=3, help="stride (default: half a window)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8], help="windows per forward pass")
    parser.add_argument("--features", type=int, default=8, help="channels of the first level of the network")
    parser.add_argument("--rounds", type=int, default=3, help="timed predictions of each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for windows.csv")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    channels = [chosen.features * factor for factor in (1, 1, 2, 4, 8, 1)]
    network = BasicUNet(3, 1, 2, features=channels, norm=("group", {"num_groups": 4})).to(device).eval()
    image = torch.randn(1, 1, *chosen.volume, generator=torch.Generator().manual_seed(0)).to(device)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for size in chosen.batches:
            config = WindowsConfig(stride=tuple(chosen.stride) if chosen.stride else None, batch=size)
            ways, number = ways_of(network, image, Windows.of(config, chosen.window))
            seconds = seconds_of(ways, chosen.rounds, device)
            rates = {f"{name}_windows_per_second": number / value for name, value in seconds.items()}
            rows.append({"batch": size, "windows": number, **rates})
    print(f"windows per second, {chosen.window} in a volume of {chosen.volume}, on {facts()['processor']}\n")
    print(f"{'batch':>5} {'windows':>8} {'ours':>9} {'MONAI':>9} {'network alone':>14}")
    for row in rows:
        ours, monai, alone = (row[f"{name}_windows_per_second"] for name in ("ours", "monai", "network"))
        print(f"{row['batch']:>5} {row['windows']:>8} {ours:>9.2f} {monai:>9.2f} {alone:>14.2f}")
    setting = {name: "x".join(map(str, getattr(chosen, name))) for name in ("volume", "window")}
    chosen.out.mkdir(parents=True, exist_ok=True)
    with (chosen.out / "windows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *setting, "features", "device", *facts()])
        writer.writeheader()
        writer.writerows(
            {**row, **setting, "features": chosen.features, "device": device.type, **facts()} for row in rows
        )
    print(f"written to {chosen.out}/windows.csv")


if __name__ == "__main__":
    main()
