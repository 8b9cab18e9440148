"""Run folders as a training leaves them, for the live page, without a training."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

CONFIG = """# launchers/train.py
recipe = "uml"
phases = []

[train]
steps = 400
best = "loss"
"""


def training_record(step: int, **others: Any) -> dict[str, Any]:
    """A logging step of 10 steps that took 5 seconds."""
    loss = 0.3 + math.exp(-step / 100)
    return {
        "step": step, "phase": "train", "epoch": step / 100, "loss": loss, "classification": 0.6 * loss,
        "mutual_dice": 0.2 * loss, "vacuity_image": 0.5, "vacuity_pixel": 0.25, "learning_rate_uml": 1e-3,
        "gradient_norm_uml": 1.5, "images_per_second": 32.0, "data_wait": 0.05, "seconds_data": 0.25,
        "seconds_forward": 1.75, "seconds_backward": 2.5, "seconds_counts": 0.5, **others,
    }  # fmt: skip


def validation_record(step: int, **others: Any) -> dict[str, Any]:
    figures = {"loss": 0.5, "dice": 0.9, "accuracy": 0.8, "pixel_ece": 0.03, "pixel_error_auroc_vacuity": 0.9}
    return {
        "step": step,
        "weights": "trained",
        **{f"validation_{key}": value for key, value in figures.items()},
        **others,
    }


def records(steps: int = 200) -> list[dict[str, Any]]:
    found = []
    for step in range(10, steps + 1, 10):
        found.append(training_record(step))
        if step % 100 == 0:
            found.append(validation_record(step))
    return found


def append(run: Path, given: Iterable[Mapping[str, Any]]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in given)


def write_status(run: Path, status: str, step: int, reason: str | None = None, age: float = 1.0) -> None:
    record = {"status": status, "step": step, "reason": reason, "time": time.time() - age}
    (run / "status.json").write_text(json.dumps(record))


def make_run(run: Path, status: str = "running", steps: int = 200, reason: str | None = None) -> Path:
    """A run that lives, or has ended; with a picture if there was a validation."""
    run.mkdir(parents=True)
    (run / "config.toml").write_text(CONFIG)
    append(run, records(steps))
    write_status(run, status, steps, reason)
    if status == "running":
        (run / ".owner").write_text("{}")
    if steps >= 100:
        sheet = run / "evaluation" / "val" / "sheet.png"
        sheet.parent.mkdir(parents=True)
        Image.new("RGB", (160, 60), "navy").save(sheet)
    return run
