"""The demo: how long it trains, figures and oracle under one rule for empty masks, and how it ends on Ctrl-C."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from commands import load_script
from uml_dist.config.loading import apply_overrides, read_toml
from uml_shards import open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.truth import oracle
from uml_shards.write.writer import write_split

SCRIPT = Path(__file__).parents[2] / "launchers" / "demo.py"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """40 small phantoms, some of them without a lesion."""
    folder = tmp_path_factory.mktemp("demo")
    importer = PhantomImporter(options=Options(size=16, counts={"val": 40}))
    write_split(importer, "val", importer.splits()["val"], folder / "val", quiet=True)
    return folder


@pytest.mark.parametrize("rule", ["one", "leave-out"])
def test_the_oracle_follows_the_rule_of_the_record_and_the_table_states_it(shards, rule, tmp_path, monkeypatch, capsys):
    demo = load_script(SCRIPT)
    record = {
        "step": 900,
        "metrics": {"dice": 0.5},
        "intervals": {"dice": [0.4, 0.6]},
        "counts": {"cases": 40, "pixels": 10240},
        "empty_masks": rule,
        "empty_masks_rule": f"the rule {rule}",
    }

    def call(script, *arguments, **words):
        if script == "evaluate.py":
            folder = tmp_path / "evaluation" / "val"
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps(record))

    monkeypatch.setattr(demo, "SHARDS", shards)
    monkeypatch.setattr(demo, "call", call)
    monkeypatch.setattr("sys.argv", ["demo.py", "--run", str(tmp_path), "train.steps=900"])
    assert demo.main() == 0
    lines = capsys.readouterr().out.splitlines()
    split = open_split(shards / "val")
    one, left_out = oracle(split, "one").dice, oracle(split, "leave-out").dice
    assert f"{one:.3f}" != f"{left_out:.3f}"
    (dice,) = [line for line in lines if line.startswith("Dice of the lesion")]
    assert dice.split()[-1] == f"{one if rule == 'one' else left_out:.3f}"
    assert f"Empty masks, for figures and the oracle's alike: the rule {rule}." in lines


@pytest.fixture
def demonstrated(shards, tmp_path, monkeypatch):
    """Runs the demo with stand-ins for the launchers; returns the words of each training, the probe's first.

    The stand-in for the training writes its configuration and reports the given number of images per second.
    """
    demo = load_script(SCRIPT)
    record = {"step": 1, "metrics": {}, "intervals": {}, "counts": {"cases": 40, "pixels": 1}}
    record |= {"empty_masks": "one", "empty_masks_rule": ""}

    def run(rate, *words):
        trainings = []

        def call(script, *arguments, **quiet):
            folder = Path(arguments[arguments.index("--run") + 1])
            if script == "train.py":
                trainings.append(arguments[arguments.index("--run") + 2 :])
                tree = apply_overrides(read_toml(demo.CONFIG), trainings[-1])
                folder.mkdir(exist_ok=True)
                (folder / "config.toml").write_text(tomli_w.dumps(tree))
                (folder / "metrics.jsonl").write_text(json.dumps({"images_per_second": rate}) + "\n")
            else:
                (folder / "evaluation" / "val").mkdir(parents=True, exist_ok=True)
                (folder / "evaluation" / "val" / "metrics.json").write_text(json.dumps(record))

        monkeypatch.setattr(demo, "SHARDS", shards)
        monkeypatch.setattr(demo, "call", call)
        monkeypatch.setattr("sys.argv", ["demo.py", "--run", str(tmp_path / "run"), *words])
        assert demo.main() == 0
        return trainings

    return run


@pytest.mark.parametrize(("rate", "steps", "every"), [(160.0, 900, 300), (16.0, 300, 100)])
def test_a_few_steps_tell_how_many_there_is_time_for(demonstrated, capsys, rate, steps, every):
    probe, training = demonstrated(rate, "optimizer.lr=1e-4")
    assert {"train.steps=12", "optimizer.lr=1e-4"} <= set(probe)
    assert set(training) == {
        f"train.steps={steps}", f"train.validate_every={every}", f"checkpoint.every={every}", "optimizer.lr=1e-4",
    }  # fmt: skip
    assert f"{rate:.0f} images/s: training for {steps} steps; " in capsys.readouterr().out


def test_steps_that_are_asked_for_are_taken(demonstrated):
    assert demonstrated(160.0, "train.steps=40") == [("train.steps=40",)]


def test_a_run_that_goes_on_keeps_its_length(demonstrated):
    """Though the machine is quicker by now: a run of another length would be another run."""
    _, first = demonstrated(16.0)
    assert demonstrated(160.0) == [first]


LAUNCHER = """
import pathlib, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path("workers").write_text(str(worker.pid))
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("a traceback of a worker", file=sys.stderr)
"""


def test_ctrl_c_ends_all_of_it_in_one_line(tmp_path):
    """With a stand-in for the launcher that the demo would call first, which has a worker."""
    launchers, folder = tmp_path / "launchers", tmp_path / "work"
    launchers.mkdir()
    folder.mkdir()
    for script in (SCRIPT, SCRIPT.with_name("demo_length.py")):
        shutil.copy(script, launchers)
    (launchers / "shards.py").write_text(LAUNCHER)
    # Where SIGINT is ignored, as in a job in the background, children ignore it as well.
    run = f"runpy.run_path({str(launchers / 'demo.py')!r}, run_name='__main__')"
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    beside = f"sys.path.insert(0, {str(launchers)!r})"
    command = [sys.executable, "-c", f"import runpy, signal, sys; {beside}; {heard}; {run}"]
    demo = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (folder / "workers").is_file() or not (folder / "workers").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    demo.send_signal(signal.SIGINT)
    _, error = demo.communicate(timeout=30)
    assert demo.returncode == 75
    assert error.strip().startswith("stopped: to go on from the last checkpoint, python launchers/demo.py --run runs/")
    assert "\n" not in error.strip()
    assert not is_running(int((folder / "workers").read_text()))


def is_running(process: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked for does not."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
