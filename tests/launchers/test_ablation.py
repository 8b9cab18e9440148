"""The ablation: files of arms, equal budgets, labelled lists, tables, and a small one from end to end."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ablation_arms import Arm, Arms, read_arms
from ablation_plan import draw_list, list_of, shared_tree, trees_of
from ablation_plot import write_plot
from ablation_report import markdown_table, printed_table
from blocks import make_blocks
from commands import load_script
from comparison_jobs import Bench, Job, plan_jobs
from comparison_results import Comparison, Result, compare
from comparison_rows import ABLATION
from ellipsoids import make_ellipsoids
from run_seconds import seconds_of_step
from spots import make_spots
from uml_dist.config.loading import differences, validate
from uml_dist.errors import UmlError

LAUNCHERS = Path(__file__).parents[2] / "launchers"
BENCH = LAUNCHERS / "bench" / "ablation.py"
ARMS = LAUNCHERS / "bench" / "ugmcl_arms.toml"
COLLAB_ARMS = LAUNCHERS / "bench" / "collab_arms.toml"

TWO = """
config = "{config}"
reference = "supervised"
labelled = 2
[arms.supervised]
summary = "labelled only"
settings = ["objective.method=supervised"]
[arms.mean_teacher]
summary = "with a teacher"
settings = ["objective.method=mean_teacher"]
[arms.dtc]
summary = "left out by default"
settings = ["objective.method=dtc"]
default = false
"""


@pytest.fixture(scope="module")
def ellipsoids(tmp_path_factory) -> Path:
    return make_ellipsoids(tmp_path_factory.mktemp("ellipsoids"))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    return make_blocks(tmp_path_factory.mktemp("blocks"))


def arms_file(folder: Path, text: str = TWO) -> Path:
    path = folder / "arms.toml"
    path.write_text(text.replace("{config}", os.path.relpath(LAUNCHERS / "configs" / "ugmcl_phantom3d.toml", folder)))
    return path


def bench_of(file: Arms, shards: Path, out: Path, *words: str) -> Bench:
    size = "data.size=[32, 16, 16]"
    return Bench(
        launcher=LAUNCHERS / "train.py", out=out, config=file.config, shards=str(shards), words=(size, *words),
        split="val", ranks=1, device="cpu", checkpoint="latest",
    )  # fmt: skip


def jobs_of(file: Arms, bench: Bench, labelled: float | None = 2, seeds: tuple[int, ...] = (0,)) -> list[Job]:
    shared = shared_tree(bench, file.arms, labelled)
    trees = trees_of(bench, shared, file.arms)
    if labelled is not None:
        draw_list(bench, shared, labelled)
    return plan_jobs(bench, trees, seeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("settings =", "setting ="), r"arms\.toml: unknown key arms\.supervised\.setting: did you mean arms\.superv"),
        (('"supervised"', '"supervise"'), r"reference = 'supervise' is not an arm: there is supervised, mean_teacher"),
        (("arms.dtc", "arms.model"), "arms: model is a table of the configuration: choose another name"),
        (("arms.dtc", 'arms."d/c"'), "arms: the name 'd/c' becomes a part of file names"),
        (("labelled = 2", "labelled = 0"), "labelled = 0: Input should be greater than 0"),
        (("objective.method=dtc", "train.steps=9"), r"'train\.steps=9' would give the arm another budget"),
        (("objective.method=dtc", "data.augment=none"), "would give the arm another budget"),
        (("objective.method=dtc", "streams.labelled.count=4"), "would give the arm another budget"),
        (("default = false", 'drop = ["streams.labelled.size"]'), "would give the arm another budget"),
    ],
)
def test_a_wrong_file_of_arms_is_refused_in_one_line(change, message, tmp_path):
    path = arms_file(tmp_path, TWO.replace(*change))
    with pytest.raises(UmlError, match=message) as caught:
        read_arms(path)
    assert "\n" not in str(caught.value)


def test_arms_are_chosen_by_name_and_the_reference_always_runs(tmp_path):
    file = read_arms(arms_file(tmp_path))
    assert list(file.chosen(None, "supervised")) == ["supervised", "mean_teacher"]
    assert list(file.chosen(["dtc"], "supervised")) == ["supervised", "dtc"]
    assert list(file.chosen(["supervised"], "dtc")) == ["supervised", "dtc"]
    with pytest.raises(UmlError, match="there is no arm 'mean_techer': did you mean mean_teacher"):
        file.chosen(["mean_techer"], "supervised")


def test_all_shipped_arms_have_equal_steps_batches_and_augmentation(ellipsoids, tmp_path):
    file = read_arms(ARMS)
    jobs = jobs_of(file, bench_of(file, ellipsoids, tmp_path, "train.steps=50"), seeds=(3, 5))
    assert [job.method for job in jobs] == [*file.arms, *file.arms]
    assert [job.seed for job in jobs] == [3] * len(file.arms) + [5] * len(file.arms)
    reference = next(job.setup.config.model_dump(mode="json") for job in jobs if job.method == "supervised")
    for job in jobs[: len(file.arms)]:
        changed = {one.key for one in differences(reference, job.setup.config.model_dump(mode="json"))}
        outside = {key for key in changed if key.partition(".")[0] not in ("model", "objective", "optimizer")}
        labels = {"streams.labelled.part", "streams.labelled.labelled_ids"} if job.method == "all_labelled" else set()
        assert outside == labels, job.method
        assert (job.setup.steps, job.setup.config.train.seed) == (50, 3)
    numbers = {job.method: len(job.setup.splits["labelled"]) for job in jobs}
    assert numbers.pop("all_labelled") == 6
    assert set(numbers.values()) == {2}
    assert file.arms["all_labelled"].has_other_labels
    assert not file.arms["ugmcl"].has_other_labels


def test_shipped_arms_of_collab_give_each_network_equal_steps(tmp_path):
    file = read_arms(COLLAB_ARMS)
    shards = make_spots(tmp_path / "spots", number=24)
    bench = replace(bench_of(file, shards, tmp_path), words=("train.steps=100",))
    jobs = jobs_of(file, bench, labelled=12)
    assert [job.method for job in jobs] == list(file.arms)
    for network in ("generator", "grader"):
        steps = [sum(steps for phase, steps in job.setup.phases if network in phase.learns) for job in jobs]
        assert steps == [65] * len(jobs), network


def test_settings_of_the_command_line_are_shared_or_of_one_arm(ellipsoids, tmp_path):
    file = read_arms(arms_file(tmp_path))
    words = ("optimizer.lr=0.5", "mean_teacher.optimizer.lr=0.25", "objective.method=ugmcl")
    first, second, _ = jobs_of(file, bench_of(file, ellipsoids, tmp_path / "out", *words))
    assert (first.setup.config.optimizer.lr, second.setup.config.optimizer.lr) == (0.5, 0.25)
    assert first.tree["objective"]["method"] == "supervised"  # the file defines the arm
    with pytest.raises(
        UmlError, match=r"'dtc\.train\.steps=9': methods may differ in model, objective, optimizer, net"
    ):
        jobs_of(file, bench_of(file, ellipsoids, tmp_path / "out", "dtc.train.steps=9"))
    with pytest.raises(
        UmlError, match=r"ugmcl_phantom3d\.toml for dtc: unknown key objective\.balances: did you mean obj"
    ):
        jobs_of(file, bench_of(file, ellipsoids, tmp_path / "out", "dtc.objective.balances=1"))


def test_labelled_samples_are_drawn_once_and_a_list_of_the_user_wins(ellipsoids, tmp_path):
    file = read_arms(arms_file(tmp_path))
    bench = bench_of(file, ellipsoids, tmp_path / "out")
    shared = shared_tree(bench, file.arms, 2)
    path = list_of(bench.out, 2)
    assert {stream.labelled_ids for stream in validate(shared, "x").streams.values()} == {str(path)}
    assert "2 of the 6 samples" in (draw_list(bench, shared, 2) or "")
    drawn = path.read_bytes()
    assert draw_list(bench, shared, 2) == f"labelled samples: those in {path}"
    assert path.read_bytes() == drawn
    own = tuple(f"streams.{name}.labelled_ids=mine.txt" for name in ("labelled", "unlabelled"))
    mine = bench_of(file, ellipsoids, tmp_path / "other", *own)
    assert draw_list(mine, shared_tree(mine, file.arms, 2), 2) is None
    assert not (tmp_path / "other").exists()


def test_labelled_samples_without_a_stream_for_them_are_refused(partly_known, tmp_path):
    (tmp_path / "arms.toml").write_text('config = "c.toml"\nreference = "a"\n[arms.a]\nsummary = "as it is"\n')
    (tmp_path / "c.toml").write_text(f'recipe = "uml"\n[streams.train]\nshards = "{partly_known}"\ncount = 8\n')
    file = read_arms(tmp_path / "arms.toml")
    bench = replace(bench_of(file, partly_known, tmp_path / "out"), words=())
    with pytest.raises(UmlError, match=r"labelled = 4 has no effect: no stream of .*c\.toml has part labelled"):
        shared_tree(bench, file.arms, 4)


def result_of(arm: str, seed: int, **metrics: tuple[float, list[float]]) -> Result:
    """Create a result from values and two bootstrap draws of each; a metric without draws is a cost."""
    values = {name: value for name, (value, _) in metrics.items()}
    draws = {name: np.array(drawn) for name, (_, drawn) in metrics.items() if drawn}
    return Result(arm, seed, ("a", "b"), values, draws, {"dataset": "made"})


def made() -> tuple[Comparison, dict[str, Arm]]:
    """Three arms: the second is better than the first in every draw, the third is not compared."""
    results = [
        result_of("base", 0, dice=(0.7, [0.6, 0.8]), step_seconds=(0.5, [])),
        result_of("better", 0, dice=(0.9, [0.8, 0.9]), step_seconds=(1.25, [])),
        result_of("same", 0, dice=(0.7, [0.5, 0.9]), step_seconds=(0.5, [])),
        result_of("base", 1, dice=(0.6, [0.5, 0.7]), step_seconds=(0.5, [])),
        result_of("better", 1, dice=(0.8, [0.7, 0.9]), step_seconds=(1.25, [])),
        result_of("same", 1, dice=(0.6, [0.4, 0.8]), step_seconds=(0.5, [])),
    ]
    arms = {name: Arm(summary=f"the {name} one") for name in ("base", "better")}
    arms["same"] = Arm(summary="the same one", settings=("streams.labelled.part=all",))
    return compare(results, ABLATION, "base"), arms


def test_table_has_means_deviations_and_differences_from_the_reference():
    comparison, arms = made()
    lines = printed_table("made", comparison, arms).splitlines()
    assert lines[0] == "made; seeds 0, 1"
    assert "same    the same one [streams.labelled.part=all]" in lines
    start = lines.index("Dice, more is better")
    assert lines[start + 2].split() == ["base", "0.650", "0.071"]
    # Means of the draws over the seeds: base 0.55 and 0.75, better 0.75 and 0.9: the differences are 0.2 and 0.15.
    better = ["better", "0.850", "0.071", "+0.200", "+0.151", "to", "+0.199", "*"]
    assert lines[start + 3].split() == better
    assert lines[start + 4].split() == ["same", "0.650", "0.071", "+0.000", "-0.095", "to", "+0.095"]
    costs = lines[lines.index("seconds a step") :]
    assert costs[3].split() == ["better", "1.250", "0.000"]
    assert "difference from base" in " ".join(lines)
    assert lines[-1] == "same: trained with other labelled samples than the other arms."
    assert max(map(len, lines)) <= 120


def test_markdown_marks_intervals_that_exclude_zero():
    comparison, arms = made()
    lines = markdown_table("made", comparison, arms).splitlines()
    assert "| arm | Dice ↑ | seconds a step |" in lines
    assert "| base | 0.650 ± 0.071 | 0.500 ± 0.000 |" in lines
    assert "| better | 0.850 ± 0.071 (**+0.151 to +0.199**) | 1.250 ± 0.000 |" in lines
    assert "| same | 0.650 ± 0.071 (-0.095 to +0.095) | 0.500 ± 0.000 |" in lines
    assert "- better: the better one" in lines


def test_difference_that_is_not_alike_in_every_seed_is_not_marked():
    results = [
        result_of("base", 0, dice=(0.7, [0.7, 0.7])),
        result_of("other", 0, dice=(0.9, [0.9, 0.9])),
        result_of("base", 1, dice=(0.6, [0.6, 0.6])),
        result_of("other", 1, dice=(0.59, [0.59, 0.59])),
    ]
    comparison = compare(results, ABLATION, "base")
    arms = {name: Arm(summary=name) for name in ("base", "other")}
    lines = printed_table("made", comparison, arms).splitlines()
    other = next(line.split() for line in lines if line.startswith("other") and "+0.095" in line)
    assert other[3:] == ["+0.095", "+0.095", "to", "+0.095"]
    assert "(+0.095 to +0.095)" in markdown_table("made", comparison, arms)


def test_plot_is_drawn(tmp_path):
    comparison, _ = made()
    write_plot(tmp_path / "new" / "plot.png", "made", comparison)
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_seconds_of_a_step_leave_out_validations_checkpoints_and_lines_without_spans(tmp_path):
    assert seconds_of_step(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 10, "seconds_forward": 4.0, "seconds_passes": 1.0, "seconds_checkpoint": 70.0}\n'
        '{"step": 10, "validation_dice": 0.5}\n'
        '{"step": 30, "seconds_forward": 8.0, "seconds_passes": 2.0, "seconds_validation": 90.0}\n'
    )
    assert seconds_of_step(tmp_path) == pytest.approx(15.0 / 30)


def command_line(out: Path, shards: Path, *words: str) -> list[str]:
    settings = [
        "model.width=0.25",
        "data.size=[16, 16, 16]",
        "data.workers=0",
        "train.steps=2",
        "metrics.enabled=false",
    ]
    settings += ["streams.labelled.count=1", "streams.unlabelled.count=1", "checkpoint.every=1"]
    given = ["--file", str(arms_file(out.parent)), "--cpu", "--out", str(out), "--shards", str(shards)]
    return [*settings, *words, *given, "--num_gpus", "1", "--seeds", "0"]


def read_rows(out: Path) -> tuple[list[dict[str, str]], dict[tuple[str, str], str]]:
    rows = list(csv.DictReader((out / "ablation.csv").open(newline="")))
    return rows, {(row["method"], row["metric"]): row["value"] for row in rows}


def start(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(BENCH), *words], capture_output=True, text=True, env=environment)


@pytest.mark.launch
def test_small_ablation_compares_two_arms_and_reuses_finished_runs(blocks, tmp_path, capsys):
    out = tmp_path / "ablation"
    done = start(*command_line(out, blocks))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs of 2 steps: 2 arms, 1 seeds, 1 workers; 0 are finished; latest checkpoint on test" in done.stdout
    assert (out / "ablation.txt").read_text() in done.stdout
    assert "balls test, 6 cases; 2 steps; latest checkpoint; seeds 0" in done.stdout
    assert "| mean_teacher | " in (out / "ablation.md").read_text()
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    rows, values = read_rows(out)
    for arm in ("supervised", "mean_teacher"):
        assert 0 <= float(values[arm, "dice"]) <= 1
        assert all(float(values[arm, cost]) > 0 for cost in ("step_seconds", "processor_minutes", "peak_gigabytes"))
    assert values["supervised", "parameters"] == values["mean_teacher", "parameters"]  # a teacher is not trained
    changes = {row["changes"] for row in rows if row["method"] == "mean_teacher"}
    assert changes == {"objective.method=mean_teacher"}
    assert all(row["checkpoint_step"] == "2" and row["torch"] and row["processor"] for row in rows)

    again = load_script(BENCH)
    assert again.main([*command_line(out, blocks), "--dry-run"]) == 0
    assert "2 are finished" in capsys.readouterr().out
    assert again.main(command_line(out, blocks)) == 0
    assert capsys.readouterr().out.count("is trained already") == 2
    assert read_rows(out)[1] == values
    assert again.main(command_line(out, blocks, "optimizer.lr=0.5")) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_errors_are_one_line_and_come_before_the_first_run(ellipsoids, tmp_path, capsys):
    command = load_script(BENCH)
    words = command_line(tmp_path / "out", ellipsoids)
    assert command.main([*words, "--split", "nowhere"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert command.main([*words, "--labelled", "7"]) == 2
    assert "cannot draw 7 samples: only 6 have a mask" in capsys.readouterr().err
    assert command.main([*words, "--reference", "absent"]) == 2
    assert "there is no arm 'absent'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()
