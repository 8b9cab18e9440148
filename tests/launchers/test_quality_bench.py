"""The quality benchmark: shared settings, comparisons, and a small benchmark from end to end."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from case_rows import cases_of
from commands import load_script
from comparison_jobs import Bench
from comparison_report import write_rows
from comparison_results import Comparison, Result, compare, summarise
from comparison_rows import QUALITY
from comparison_runs import Cost
from manifests import manifest_of
from quality_plan import METHODS, plan
from quality_report import printed_table
from uml_dist.cluster.training import rewind
from uml_dist.config.loading import differences
from uml_dist.errors import UmlError
from uml_dist.metrics.families import STANDARD

LAUNCHERS = Path(__file__).parents[2] / "launchers"
BENCH = LAUNCHERS / "bench" / "quality.py"
CONFIG = LAUNCHERS / "configs" / "uml_phantom.toml"


def bench_of(shards: Path | str, out: Path, *words: str, **changes) -> Bench:
    settings = {"config": CONFIG, "split": "val", "ranks": 2, "device": "cpu", **changes}
    return Bench(launcher=LAUNCHERS / "train.py", out=out, shards=str(shards), words=words, **settings)


def test_methods_share_all_tables_except_their_own(partly_known, tmp_path):
    words = ("train.steps=50", "optimizer.warmup=7", "uml.model.width=0.25", "plain.optimizer.lr=0.01")
    jobs = plan(bench_of(partly_known, tmp_path, *words), METHODS, [3, 5])
    assert [(job.method, job.seed, job.setup.steps) for job in jobs] == [
        ("uml", 3, 50), ("plain", 3, 50), ("uml", 5, 50), ("plain", 5, 50),
    ]  # fmt: skip
    uml, plain = (job.setup.config.model_dump(mode="json") for job in jobs[:2])
    changed = {one.key.partition(".")[0] for one in differences(uml, plain)}
    assert changed <= {"recipe", "model", "objective", "optimizer"}
    assert (uml["optimizer"]["lr"], plain["optimizer"]["lr"]) == (2e-3, 1e-2)
    assert (uml["optimizer"]["warmup"], plain["optimizer"]["warmup"]) == (7, 7)
    assert (uml["model"]["width"], uml["objective"]["kl"]) == (0.25, 0.3)
    assert (uml["train"]["seed"], plain["train"]["seed"]) == (3, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["plain.train.steps=9"], r"'plain\.train\.steps=9': methods may differ in model, objective, optimizer, net"),
        (["train.seed=4"], r"the benchmark sets recipe and seed \(--seeds\)"),
        (["recipe=uml"], r"the benchmark sets recipe and seed"),
        (["model.width=0.25"], r"uml_phantom\.toml for plain: unknown key model\.width"),
        (["plain.model.chanels=8"], r"did you mean model\.channels"),
    ],
)
def test_unfair_or_unknown_setting_is_refused(words, reason, partly_known, tmp_path):
    with pytest.raises(UmlError, match=reason):
        plan(bench_of(partly_known, tmp_path, *words), METHODS, [0])


def test_configuration_of_another_recipe_is_refused(partly_known, tmp_path):
    (tmp_path / "toy.toml").write_text('recipe = "toy"\n')
    with pytest.raises(UmlError, match=r"toy\.toml is not for recipe uml, which the benchmark compares"):
        plan(bench_of(partly_known, tmp_path, config=tmp_path / "toy.toml"), METHODS, [0])


def result_of(method: str, seed: int, **metrics: tuple[float, list[float]]) -> Result:
    """Create a result from values and two bootstrap draws of each."""
    values = {name: value for name, (value, _) in metrics.items()}
    draws = {name: np.array(drawn) for name, (_, drawn) in metrics.items()}
    return Result(method, seed, ("a", "b"), values, draws, {"dataset": "made"})


def four_results() -> list[Result]:
    vacuity = {"image_error_auroc_vacuity": (0.7, [0.7, 0.7])}
    entropy = [{"image_error_auroc_entropy": (value, [value, value])} for value in (0.6, 0.8)]
    return [
        result_of("uml", 0, dice=(0.8, [0.7, 0.9]), **entropy[0], **vacuity),
        result_of("plain", 0, dice=(0.7, [0.6, 0.8]), **entropy[1]),
        result_of("uml", 1, dice=(0.6, [0.52, 0.68]), **entropy[0], **vacuity),
        result_of("plain", 1, dice=(0.7, [0.7, 0.7]), **entropy[1]),
    ]


def comparison_of(results: list[Result]) -> Comparison:
    return compare(results, QUALITY, reference=results[-1].method)


def test_means_deviations_and_paired_differences_match_a_hand_calculation():
    comparison = comparison_of(four_results())
    rows = {row.row.metric: row for row in comparison.rows}
    dice = rows["dice"]
    assert (dice.methods["uml"].mean, dice.methods["plain"].mean) == (pytest.approx(0.7), pytest.approx(0.7))
    assert dice.methods["uml"].deviation == pytest.approx(0.02**0.5)
    assert set(dice.differences) == {"uml"}
    assert dice.differences["uml"].value == pytest.approx(0.0)
    # Means of the draws over the seeds: uml 0.61 and 0.79, plain 0.65 and 0.75; the differences are -0.04 and 0.04.
    assert dice.differences["uml"].interval == (pytest.approx(-0.038), pytest.approx(0.038))
    vacuity = rows["image_error_auroc_vacuity"]
    assert (vacuity.methods["uml"].mean, vacuity.methods["plain"].mean) == (pytest.approx(0.7), pytest.approx(0.8))
    assert vacuity.differences["uml"].value == pytest.approx(-0.1)
    assert "auroc" not in rows


def test_table_has_both_methods_and_their_difference():
    lines = printed_table("made", comparison_of(four_results())).splitlines()
    (dice,) = [line for line in lines if line.startswith("Dice ")]
    assert dice.split() == ["Dice", "more", "0.700", "0.141", "0.700", "0.000", "+0.000", "-0.038", "to", "+0.038"]
    assert lines[0] == "made; seeds 0, 1"
    one = printed_table("made", comparison_of(four_results()[:1]))
    assert "uml - plain" not in one
    assert "95 %" not in one


def test_csv_has_a_row_per_method_seed_and_metric(tmp_path):
    write_rows(tmp_path / "quality.csv", four_results())
    rows = list(csv.DictReader((tmp_path / "quality.csv").open(newline="")))
    assert len(rows) == 10
    assert rows[0] == {"method": "uml", "seed": "0", "metric": "dice", "value": "0.8", "dataset": "made"}


def test_runs_on_different_cases_are_not_compared():
    first, second, *_ = four_results()
    other = Result(second.method, second.seed, ("a", "c"), second.values, second.draws, second.facts)
    with pytest.raises(UmlError, match="evaluated on different cases"):
        comparison_of([first, other])


def test_dice_of_present_classes_leaves_out_images_without_them_and_costs_are_per_image():
    areas = [(8, 10, 10), (0, 0, 0), (0, 3, 0), (0, 0, 5)]  # intersection, predicted and true pixels of the lesion
    cases = [
        {
            **{"key": str(number), "label": -1.0, "pixels": 16, "pixel_nll": 0.1},
            **{"intersection_0": 0, "predicted_0": 0, "true_0": 0},
            **dict(zip(("intersection_1", "predicted_1", "true_1"), area, strict=True)),
        }
        for number, area in enumerate(areas)
    ]
    config = SimpleNamespace(recipe="uml", streams={"train": SimpleNamespace(count=4)}, optimizer=SimpleNamespace(lr=1))
    setup = SimpleNamespace(config=config, steps=10, first_stream="train")
    cost = Cost(
        from_step=0, images=500, processor_seconds=90.0, wall_seconds=60.0, workers=2, machine={}, peak_gigabytes=1.5
    )
    run = SimpleNamespace(
        job=SimpleNamespace(method="uml", seed=0, setup=setup), cases=cases_of(cases), manifest=manifest_of(labelled=0),
        families=STANDARD, parameters=2_000_000, step=10, cost=cost, step_seconds=0.25,
    )  # fmt: skip
    values = summarise(run).values  # type: ignore[arg-type]
    assert values["dice"] == pytest.approx((0.8 + 1 + 0 + 0) / 4)
    assert values["dice_present"] == pytest.approx((0.8 + 0) / 2)
    assert (values["parameters"], values["processor_seconds_per_1000"]) == (2.0, 180.0)
    assert (values["step_seconds"], values["peak_gigabytes"]) == (0.25, 1.5)
    assert (values["processor_minutes"], values["wall_minutes"]) == (1.5, 1.0)
    run.cost = Cost(from_step=4, images=300, processor_seconds=60.0, wall_seconds=60.0, workers=2, machine={})
    resumed = summarise(run).values  # type: ignore[arg-type]
    assert resumed["processor_seconds_per_1000"] == 200.0
    assert "processor_minutes" not in resumed


def test_errors_are_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = load_script(BENCH)
    assert command.main(["--cpu", "--shards", "absent"]) == 2
    assert capsys.readouterr().err.startswith("error: shard folder absent/train does not exist: make shards first")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert command.main(["--cpu"]) == 2
    assert "run this without a launcher" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def start(out: Path, shards: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = ["uml.model.width=0.0625", "plain.model.channels=8", "data.workers=0", "streams.train.count=8"]
    settings += ["train.steps=6", "checkpoint.every=3", "train.validate_every=3", "metrics.enabled=false"]
    command = [sys.executable, str(BENCH), *settings, "--cpu", "--out", str(out), "--shards", str(shards)]
    command += ["--split", "val", "--num_gpus", "1", "--seeds", "0", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def values_of(out: Path) -> dict[tuple[str, str], str]:
    rows = list(csv.DictReader((out / "quality.csv").open(newline="")))
    assert {(row["seed"], row["dataset"], row["split"], row["steps"]) for row in rows} == {("0", "phantom", "val", "6")}
    assert all(row["cpu_capability"] and row["torch"] and row["date"] for row in rows)
    return {(row["method"], row["metric"]): row["value"] for row in rows}


@pytest.mark.launch
def test_small_benchmark_compares_both_methods_and_resumes_a_stopped_run(partly_known, tmp_path, capsys):
    out = tmp_path / "quality"
    done = start(out, partly_known)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "phantom val, 12 images; 6 steps of 8 images; seeds 0" in done.stdout
    assert (out / "quality.txt").read_text() in done.stdout
    (dice,) = [line.split() for line in done.stdout.splitlines() if line.startswith("Dice  ")]
    values = values_of(out)
    expected = [float(values[method, "dice"]) for method in METHODS]
    assert [float(cell) for cell in dice[2:4]] == pytest.approx(expected, abs=6e-4)
    assert ("uml", "pixel_error_auroc_vacuity") in values
    assert ("plain", "pixel_error_auroc_vacuity") not in values
    assert float(values["uml", "processor_minutes"]) > 0
    assert (out / "quality.png").read_bytes().startswith(b"\x89PNG")

    stopped = out / "runs" / "plain-0"
    shutil.move(stopped, tmp_path / "complete")
    assert rewind(tmp_path / "complete", stopped, 3)
    (stopped / "status.json").write_text(json.dumps({"status": "running", "step": 3}))
    again = start(out, partly_known)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "uml-0 is trained already" in again.stdout
    assert "resumed at step 3" in again.stdout
    resumed = values_of(out)
    costs = {key for key in values if key[1].startswith(("processor", "wall", "step_seconds", "peak"))}
    assert {key: values[key] for key in values.keys() - costs} == {key: resumed[key] for key in resumed.keys() - costs}
    assert ("plain", "processor_minutes") not in resumed
    assert resumed["uml", "processor_minutes"] == values["uml", "processor_minutes"]

    command = load_script(BENCH)
    words = ["--cpu", "--out", str(out), "--shards", str(partly_known), "--num_gpus", "1", "--seeds", "0"]
    assert command.main([*words, "--split", "nowhere"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert command.main([*words, "--split", "val", "train.steps=7"]) == 2
    error = capsys.readouterr().err
    assert "was started with another configuration" in error
    assert "choose another --out" in error
