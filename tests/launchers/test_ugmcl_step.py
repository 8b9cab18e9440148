"""The benchmark of a step of UG-MCL: reading times and memory, its table, and one variant from end to end."""

import csv
import json
from pathlib import Path

import pytest

import ugmcl_step
from blocks import make_blocks
from ugmcl_step import DEFAULT, VARIANTS, Setting, tree_of
from ugmcl_step_report import Measured, measured, printed_table, write_rows
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError

SETTING = Setting((16, 16, 32), 0.25, 4, 2, steps=2, warm_up=1, cpu=True)


def log(run: Path, *seconds: float) -> Path:
    """Write a run's log with forward passes of some seconds, and a checkpoint after the last step."""
    run.mkdir()
    records = [
        {"step": step, "seconds_forward": value, "seconds_backward": 1.0} for step, value in enumerate(seconds, 1)
    ]
    records[-1]["seconds_checkpoint"] = 100.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def test_times_are_medians_after_the_warm_up_and_memory_is_the_trainers(tmp_path):
    run = log(tmp_path / "run", 50.0, 3.0, 2.0, 9.0)
    output = "done: runs/x, peak memory 1.25 GB on the largest rank, 1.25 GB on all, 5.15 GB of GPU memory on rank 0\n"
    found = measured("passes", "bf16", run, 1, output)
    assert (found.total, found.parts) == (4.0, {"forward": 3.0, "backward": 1.0})
    assert found.memory == {"peak_gigabytes": 1.25, "gpu_gigabytes": 5.15}
    with pytest.raises(UmlError, match="no times of steps after the first 4"):
        measured("passes", "bf16", run, 4, output)


def rows() -> list[Measured]:
    return [
        Measured("supervised", "fp32", 0.3, {"forward": 0.1, "backward": 0.2}, {"peak_gigabytes": 0.5}),
        Measured("passes", "fp32", 1.0, {"forward": 0.1, "passes": 0.7, "mine": 0.2}, {}),
    ]


def test_table_has_a_line_per_part_and_a_column_per_variant():
    lines = [line.split("  ") for line in printed_table(rows(), SETTING).splitlines()]
    cells = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    assert cells["teacher, stochastic passes"] == ["-", "700.0"]
    assert cells["student, forward"] == ["100.0", "100.0"]
    assert cells["mine"] == ["-", "200.0"]
    assert cells["step"] == ["300.0", "1000.0"]
    assert cells["peak memory, GB"] == ["0.50", "-"]
    assert "peak GPU memory, GB" not in cells


def test_csv_has_a_row_per_variant_and_metric_with_setting_and_machine(tmp_path):
    write_rows(tmp_path / "step.csv", rows(), SETTING)
    written = list(csv.DictReader((tmp_path / "step.csv").open(newline="")))
    values = {(row["variant"], row["metric"]): float(row["value"]) for row in written}
    assert values["passes", "seconds_passes"] == 0.7
    assert values["supervised", "seconds_step"] == 0.3
    assert values["supervised", "peak_gigabytes"] == 0.5
    assert {(row["size"], row["width"], row["passes"]) for row in written} == {("16x16x32", "0.25", "4")}
    assert all(row["torch"] and row["processor"] and row["date"] for row in written)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_valid_configuration_of_the_paper_but_for_its_size(name, tmp_path):
    config = validate(tree_of(name, "fp32", SETTING, tmp_path, tmp_path / "ids"), name)
    assert (config.optimizer.name, config.optimizer.lr) == ("sgd", 0.01)
    assert {stream.count for stream in config.streams.values()} == {2}
    assert set(DEFAULT) <= set(VARIANTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "error: --steps, --passes and --passes-at-once must be at least 1"),
        (["--shards", "absent"], "error: shard folder absent/train does not exist"),
    ],
)
def test_errors_are_one_line(words, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert ugmcl_step.main(["--cpu", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_nothing_starts_after_the_time_limit(tmp_path, capsys):
    shards = make_blocks(tmp_path / "shards")
    assert ugmcl_step.main(["--cpu", "--shards", str(shards), "--seconds", "0", "--out", str(tmp_path / "out")]) == 0
    assert "skipped for lack of time: supervised, fp32" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.launch
def test_one_variant_is_trained_and_its_parts_are_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shards = make_blocks(tmp_path / "shards")
    words = ["--cpu", "--shards", shards, "--size", 16, 16, 16, "--width", 0.25, "--passes", 2, "--variants", "passes"]
    words += ["--precisions", "fp32", "--steps", 2, "--warm-up", 1, "--out", tmp_path]
    assert ugmcl_step.main(list(map(str, words))) == 0, capsys.readouterr().err
    assert "teacher, stochastic passes" in capsys.readouterr().out
    values = {row["metric"]: float(row["value"]) for row in csv.DictReader((tmp_path / "ugmcl_step.csv").open())}
    parts = ("data", "distance_maps", "teacher", "passes", "forward", "backward", "optimizer", "average")
    assert all(values[f"seconds_{part}"] > 0 for part in parts)
    assert values["seconds_step"] >= values["seconds_passes"]
    assert values["peak_gigabytes"] > 0
