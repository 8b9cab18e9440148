"""Events for TensorBoard, read back by TensorBoard's own reader."""

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from uml_dist.errors import UmlError
from uml_dist.telemetry import tensorboard
from uml_dist.telemetry.tensorboard import FOLDER, TensorBoardWriter, check_tensorboard, tag_of

pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")


def read(run: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / FOLDER))
    events.Reload()
    return events


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(run).Scalars(tag)]


def train(run: Path, first: int, last: int, value: float) -> None:
    writer = TensorBoardWriter(run, first)
    for step in range(first + 1, last + 1):
        writer.record({"step": step, "phase": "train", "loss": value, "vacuity_image": 0.5})
    writer.close()


def test_records_become_scalars_and_words_do_not(tmp_path):
    writer = TensorBoardWriter(tmp_path, 0)
    writer.record({"step": 5, "phase": "train", "loss": 0.25, "learning_rate_uml": 1e-3, "seconds_forward": 2.5})
    writer.record({"step": 5, "weights": "trained", "validation_dice": 0.75, "validation_grades.accuracy": 0.5})
    writer.close()
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {
        *("train/loss", "learning_rate/uml", "seconds/forward"),
        *("validation/dice", "validation/grades.accuracy"),
    }
    assert scalars(tmp_path, "validation/dice") == [(5, 0.75)]


def test_a_resumed_run_has_no_step_twice(tmp_path):
    train(tmp_path, 0, 30, value=1.0)
    train(tmp_path, 20, 40, value=2.0)
    found = scalars(tmp_path, "train/loss")
    assert [step for step, _ in found] == list(range(1, 41))
    assert [value for _, value in found] == [1.0] * 20 + [2.0] * 20


def test_a_run_that_starts_again_without_a_checkpoint_has_no_step_twice(tmp_path):
    train(tmp_path, 0, 10, value=1.0)
    train(tmp_path, 0, 5, value=2.0)
    assert scalars(tmp_path, "train/loss") == [(step, 2.0) for step in range(1, 6)]


def test_values_that_are_not_finite_are_written_as_they_are(tmp_path):
    writer = TensorBoardWriter(tmp_path, 0)
    writer.record({"step": 1, "loss": math.nan, "gradient_norm_uml": math.inf})
    writer.close()
    assert math.isnan(scalars(tmp_path, "train/loss")[0][1])
    assert scalars(tmp_path, "gradient_norm/uml") == [(1, math.inf)]


def test_pictures_are_written_unchanged(tmp_path):
    path = tmp_path / "sheet.png"
    Image.new("RGB", (40, 30), "red").save(path)
    writer = TensorBoardWriter(tmp_path, 0)
    writer.picture("val", path, 100)
    writer.close()
    (picture,) = read(tmp_path).Images("cases/val")
    assert (picture.step, picture.width, picture.height) == (100, 40, 30)
    assert picture.encoded_image_string == path.read_bytes()


def test_names_of_others_become_tags_of_their_group():
    hostile = 'validation_dice_<b>"\n{a="1"}'
    assert tag_of(hostile).startswith("validation/")
    assert tag_of("classification_kl") == "train/classification_kl"


def test_a_name_of_others_can_be_written(tmp_path):
    writer = TensorBoardWriter(tmp_path, 0)
    writer.record({"step": 1, 'validation_dice_<b>"\n{a="1"}/../x': 0.5})
    writer.close()
    assert [event.value for tag in read(tmp_path).Tags()["scalars"] for event in read(tmp_path).Scalars(tag)] == [0.5]


def test_training_goes_on_where_nothing_can_be_written(tmp_path, caplog):
    (tmp_path / FOLDER).write_text("a file is in the way")
    writer = TensorBoardWriter(tmp_path, 0)
    writer.record({"step": 1, "loss": 1.0})
    writer.picture("val", tmp_path / "sheet.png", 1)
    writer.close()
    assert caplog.text.count("no longer written") == 1


def test_a_missing_package_is_one_line_with_the_remedy(monkeypatch):
    check_tensorboard()
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(UmlError, match=r"pip install 'uml-dist\[tensorboard\]'"):
        check_tensorboard()


def test_a_killed_run_keeps_all_but_its_last_seconds(tmp_path):
    code = f"""
import os, time
from pathlib import Path
from uml_dist.telemetry import tensorboard
tensorboard.FLUSH_SECONDS = 0
writer = tensorboard.TensorBoardWriter(Path({str(tmp_path)!r}), 0)
for step in range(1, 11):
    writer.record({{"step": step, "loss": 1.0}})
while not any(path.stat().st_size > 400 for path in Path({str(tmp_path / FOLDER)!r}).iterdir()):
    time.sleep(0.01)
    writer.record({{"step": 11, "loss": 1.0}})
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert scalars(tmp_path, "train/loss")[0] == (1, 1.0)
    time.sleep(1.0)  # TensorBoard orders files by the second in their names
    train(tmp_path, 5, 8, value=2.0)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == list(range(1, 9))
