"""Trains UML for some steps with the real launcher and every ZeRO stage; started by gpu_check.py."""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from report import measured, write_rows

ROOT = Path(__file__).parents[2]
STAGES = (0, 1, 2, 3)


def make_shards(folder: Path, size: int, samples: int) -> None:
    """Write shards of phantom images unless they exist."""
    if (folder / "train" / "manifest.json").exists():
        return
    words = ["make", "--dataset", "phantom", "--out", folder, "--size", size, "--quiet"]
    words += ["--count", f"train={samples}", "val=8", "test=0"]
    subprocess.run([sys.executable, ROOT / "launchers" / "shards.py", *map(str, words)], check=True, text=True)


def train(stage: int, chosen: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Train with one ZeRO stage; return rows of images per second, data wait, the rate without it, and peak GB."""
    run = chosen.scratch / f"run-zero-{stage}"
    settings = {
        "train.steps": chosen.steps, "train.log_every": max(1, chosen.steps // 10), "train.precision": "bf16",
        "train.validate_every": 10**6, "checkpoint.every": 10**6, "zero.stage": stage, "metrics.enabled": "false",
        "streams.train.shards": chosen.scratch / "phantom", "streams.train.count": chosen.batch,
        "model.profile": chosen.profile, "model.width": chosen.width,
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, ROOT / "launchers" / "train.py", "--num_gpus", "1", "--run", run, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"ZeRO {stage}: exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return []
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "images_per_second" in line]
    warm = logged[len(logged) // 3 :]
    memory = re.search(r"([\d.]+) GB of GPU memory", done.stdout + done.stderr)
    figures = {
        ("images per second", "1/s"): [line["images_per_second"] for line in warm],
        ("data wait", "1"): [line["data_wait"] for line in warm],
        ("images per second without data wait", "1/s"): [
            line["images_per_second"] / max(1 - line["data_wait"], 1e-4) for line in warm
        ],
        ("memory", "GB"): [float(memory[1])] if memory else [],
    }
    known = {key: values for key, values in figures.items() if values}
    print(f"ZeRO {stage}: " + ", ".join(f"{name} {median(values):.4g}" for (name, _), values in known.items()))
    return [
        measured(
            device, values, kernel="uml training", provider=f"ZeRO {stage}", mode="full", classes=3, dtype="bfloat16",
            layout="last", batch=chosen.batch, height=chosen.size, width=chosen.size, metric=name, unit=unit,
        )
        for (name, unit), values in known.items()
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print and write; return 1 if a training failed. Results from before the time limit are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="paper", choices=("paper", "compact"))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=150, help="start no training after this time")
    parser.add_argument("--stages", type=int, nargs="+", default=STAGES)
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument("--scratch", type=Path, help="folder of shards and runs; default: the CSV file's")
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen.out = chosen.out.absolute()
    chosen.scratch = (chosen.scratch or chosen.out.parent).absolute()
    chosen.scratch.mkdir(parents=True, exist_ok=True)
    start, rows, failed = perf_counter(), [], False
    make_shards(chosen.scratch / "phantom", chosen.size, 8 * chosen.batch)
    for stage in chosen.stages:
        if perf_counter() - start > chosen.seconds:
            print(f"skipped for lack of time: ZeRO {stage}")
            continue
        new = train(stage, chosen, device)
        failed, rows = failed or not new, rows + new
        write_rows(chosen.out, rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
