"""What `train.py --dry-run --gpus N` reads of a measured run, and prints."""

import json
import shutil
from pathlib import Path

import pytest

from runs import uml_tree
from uml_dist.commands.train import parse
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.scale.measured import read_measured
from uml_dist.scale.model import Measured
from uml_dist.scale.options import question_of
from uml_dist.train.dry_run import dry_run
from uml_dist.train.setup import prepare

INFO = 'uml_run_info{attempt="1",rank="0",run="r",stage="2",world_size="4"} 1.0\n'


def record(step: int, productive: float, phase: str = "train", update: float = 0.5) -> dict[str, object]:
    speed = {"images_per_second": 16.0, "seconds_optimizer": update, "seconds_average": 0.1}
    return {"step": step, "phase": phase, "loss": 1.0, "productive_seconds": productive, **speed}


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of 4 ranks: 2 s for each of 10 steps of 32 samples, after a warm-up, apart from one slow record."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "rank-0.prom").write_text(INFO + "uml_gpu_memory_peak_bytes 5.0e9\n")
    (tmp_path / "config.toml").write_text("")
    records = [record(10, 100.0), record(20, 120.0), {"step": 20, "validation_loss": 1.0}, record(30, 140.0)]
    records += [record(40, 190.0), record(50, 210.0)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return tmp_path


def test_the_median_step_of_a_run_is_read(run):
    assert read_measured(run) == Measured(4, 32, 2.0, pytest.approx(0.06), 2, 5_000_000_000)


def test_only_the_last_phase_counts(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record(60, 215.0, "second")) + "\n")
    assert read_measured(run).step == 0.5


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("metrics.jsonl", json.dumps(record(10, 1.0)) + "\n", "has logged too few steps"),
        ("metrics.jsonl", "", "has logged too few steps"),
        ("metrics/rank-0.prom", "uml_step 3\n", "does not state the ranks"),
        ("metrics/rank-0.prom", INFO.replace('"4"', '"four"'), "does not state the ranks"),
    ],
)
def test_a_run_without_a_measured_step_is_refused_in_one_line(run, file, text, problem):
    (run / file).write_text(text)
    with pytest.raises(UmlError, match=problem) as error:
        read_measured(run)
    assert "\n" not in str(error.value)


def test_the_table_names_what_stops_scaling(partly_known, run):
    setup = prepare(validate(uml_tree(partly_known), "test"), 8)
    options = parse(["recipe=uml", "--dry-run", "--gpus", "256", "--measured", str(run), "--gpu-memory", "0.001"])
    lines = dry_run(setup, 8, question_of(options)).splitlines()
    start = lines.index("") + 1
    assert lines[start].startswith("on 256 GPUs, 8 on each machine, 300 GB/s and 5 us within a machine, 50 GB/s and 10")
    assert "predicted for streams.train.count=256" in lines[start + 1]
    assert [line.split()[0] for line in lines[-9:-4]] == ["ZeRO", "0", "1", "2", "3"]
    assert lines[-4] == "what stops scaling at ZeRO 1, the first first:"
    limits = [line.split(":")[0].strip() + ":" + line.split(":")[1] for line in lines[-3:]]
    # 96 samples are in shards of 20.
    assert limits == ["from 1 ranks on: memory", "from 6 ranks on: the shards", "from 9 ranks on: the global batch"]


def test_what_one_measured_run_does_not_tell_is_said(partly_known, run, tmp_path):
    def text_of(*runs: Path) -> str:
        words = ["recipe=uml", "--dry-run", "--gpus", "256", "--measured", *map(str, runs)]
        return dry_run(prepare(validate(uml_tree(partly_known), "test"), 8), 8, question_of(parse(words)))

    def another(name: str, stage: int, speed: float) -> Path:
        shutil.copytree(run, folder := tmp_path.with_name(f"{tmp_path.name}-{name}"))
        info = folder / "metrics" / "rank-0.prom"
        info.write_text(info.read_text().replace('stage="2"', f'stage="{stage}"'))
        log = folder / "metrics.jsonl"
        log.write_text(log.read_text().replace('"images_per_second": 16.0', f'"images_per_second": {speed}'))
        return folder

    larger, partitioned = another("larger", 1, 32.0), another("partitioned", 3, 16.0)
    assert "a second run with another global batch" in text_of(run)
    assert "ZeRO 3 takes longer than shown" in text_of(run)
    assert "a second run" not in text_of(run, larger)
    # The run that needs more memory for each sample counts, in whatever order they are named.
    needed = [line for line in text_of(run).splitlines() if line.startswith("activations of")]
    assert len(needed) == 1
    assert all(needed[0] in text_of(*runs).splitlines() for runs in ((run, larger), (larger, run)))
    assert "than shown" not in text_of(run, larger, partitioned)
    assert "ZeRO 0 to 2 take less than shown" in text_of(partitioned)


def test_without_a_measured_step_only_its_seconds_are_missing(partly_known):
    setup = prepare(validate(uml_tree(partly_known, streams__train__count=8), "test"), 4)
    text = dry_run(setup, 4, question_of(parse(["recipe=uml", "--dry-run", "--gpus", "4"])))
    assert "no measured step: add --measured RUN" in text
    assert text.splitlines()[-1].startswith("nothing stops scaling up to 4 ranks; then the shards")
    rows = [line.split() for line in text.splitlines() if line[:1].isdigit()]
    assert [row[-2:] for row in rows] == [["?", "?"]] * 4


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--gpus", "8"], "--gpus needs --dry-run"),
        (["--dry-run", "--measured", "runs/x"], "--measured needs --dry-run --gpus N"),
        (["--dry-run", "--gpus", "0"], "--gpus: use numbers above 0"),
        (["--dry-run", "--gpus", "8", "--link-rates", "nan", "1"], "--link-rates: use numbers above 0"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(words, problem, capsys):
    with pytest.raises(SystemExit) as left:
        parse(words)
    assert left.value.code == 2
    assert problem in capsys.readouterr().err
