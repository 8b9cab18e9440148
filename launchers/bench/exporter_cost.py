"""CPU time that metrics cost a rank: recording a step, a logging step, and answering a scrape.

    python launchers/bench/exporter_cost.py
    python launchers/bench/exporter_cost.py --step-ms 10 --scrape-seconds 5

Each rank has its own exporter, so these seconds are those of every rank, whatever their number; Prometheus gets as many
times the bytes as there are ranks. Measured is the CPU time of the process, which includes the server's threads.
"""

import argparse
import time
import urllib.request
from collections.abc import Callable, Sequence

import torch

from uml_dist.telemetry import Metrics, bin_opinions, serve_metrics
from uml_shards import tally

TERMS = ("loss", "classification", "segmentation", "mutual", "classification_fit", "classification_kl")
PHASES = ("data", "host_to_device", "targets", "counts", "forward", "loss", "backward", "optimizer", "average", "hooks")
FIGURES = 60
"""Metrics of a validation; a run of UML on ISIC 2017 has about as many."""

RANKS = (2, 8)


def record_step(metrics: Metrics, step: int) -> None:
    """Record what every step records."""
    metrics.record_step(step=step, epoch=0.1, images=8, seconds=0.1, data_wait_seconds=0.001)
    metrics.record_progress(step, 10_000)
    metrics.record_goodput(0.1, 0.9)
    metrics.record_updates({"uml": True})


def record_log(metrics: Metrics, vacuity: torch.Tensor) -> None:
    """Record what a logging step records besides, the binning of one map of vacuity included."""
    values = {name: 0.5 for name in TERMS}
    metrics.record_log(
        loss=values, learning_rate={"uml": 1e-3}, grad_norm={"uml": 1.0}, vacuity={"image": 0.2, "pixel": 0.1}
    )
    metrics.record_phases(dict.fromkeys(PHASES, 0.01))
    metrics.record_eta(100.0)
    metrics.record_reading(tally.take())
    for level in ("image", "pixel"):
        metrics.record_opinions(level, bin_opinions(vacuity, 2).tolist())


def cpu_seconds(call: Callable[[int], object], repeats: int) -> float:
    """Return the CPU seconds of one call, the fastest of five rounds."""

    def of_round() -> float:
        start = time.process_time()
        for number in range(repeats):
            call(number)
        return (time.process_time() - start) / repeats

    return min(of_round() for _ in range(5))


def scrape(address: str) -> int:
    """Scrape a rank as Prometheus does; return the number of bytes."""
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    with urllib.request.urlopen(urllib.request.Request(address, headers={"Accept": accept}), timeout=60) as answer:
        return len(answer.read())


def measure(side: int) -> tuple[dict[str, float], int, int]:
    """Return CPU seconds by what costs them, the bytes of a scrape, and its series.

    Args:
        side: height and width of the 8 maps of vacuity that a logging step bins.
    """
    metrics = Metrics(run="run", recipe="uml", stage=2, world_size=8, rank=0, device="cpu")
    metrics.record_validation({f"figure {number}": 0.5 for number in range(FIGURES)})
    vacuity = torch.rand(8, side, side)
    record_log(metrics, vacuity)
    metrics.record_checkpoint("save", 1.0, time.time(), 1000)
    seconds = {
        "a step": cpu_seconds(lambda step: record_step(metrics, step), 2000),
        "a logging step": cpu_seconds(lambda _: record_log(metrics, vacuity), 20),
    }
    server = serve_metrics(metrics.registry, 0)
    assert server is not None, "no free port"
    address = server.address
    size = scrape(address)
    # The client of this measurement is in the same process, so the share of the server is less.
    seconds["a scrape"] = cpu_seconds(lambda _: scrape(address), 50)
    server.stop()
    series = sum(len(family.samples) for family in metrics.registry.collect())
    return seconds, size, series


def table(seconds: dict[str, float], size: int, series: int, chosen: argparse.Namespace) -> str:
    """Return the figures as a table, with their shares of a step."""
    step = chosen.step_ms / 1000
    shares = {
        "a step": seconds["a step"] / step,
        "a logging step": seconds["a logging step"] / (step * chosen.log_every),
        "a scrape": seconds["a scrape"] / chosen.scrape_seconds,
    }
    lines = [
        f"steps of {chosen.step_ms:g} ms, logging every {chosen.log_every} steps with 8 maps of {chosen.side}^2, "
        f"a scrape every {chosen.scrape_seconds:g} s",
        f"{'recording':<16}{'CPU ms':>10}{'share of time':>16}",
        *(f"{name:<16}{1000 * value:>10.4f}{100 * shares[name]:>14.4f} %" for name, value in seconds.items()),
        f"{'together':<16}{'':>10}{100 * sum(shares.values()):>14.4f} %",
    ]
    lines += [f"{ranks} ranks: {ranks * series} series, {ranks * size} bytes per scrape" for ranks in RANKS]
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-ms", type=float, default=100.0, help="duration of a step")
    parser.add_argument("--log-every", type=int, default=10, help="steps between two logging steps")
    parser.add_argument("--scrape-seconds", type=float, default=15.0, help="seconds between two scrapes")
    parser.add_argument("--side", type=int, default=224, help="height and width of the maps of vacuity")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    chosen = parse(arguments)
    torch.set_num_threads(1)
    print(table(*measure(chosen.side), chosen))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
