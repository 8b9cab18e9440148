"""The demo: the length of its training run, its rule for empty masks, and its end on Ctrl-C."""

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
    """40 small phantom images, some of them without a lesion."""
    folder = tmp_path_factory.mktemp("demo")
    importer = PhantomImporter(options=Options(size=16, counts={"val": 40}))
    write_split(importer, "val", importer.splits()["val"], folder / "val", quiet=True)
    return folder


@pytest.mark.parametrize("rule", ["one", "leave-out"])
def test_oracle_follows_the_record_s_rule_and_the_table_states_it(shards, rule, tmp_path, monkeypatch, capsys):
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
    assert f"Empty masks, for the run and the oracle: the rule {rule}." in lines


@pytest.fixture
def demonstrated(shards, tmp_path, monkeypatch):
    """Return a function that runs the demo with fake launchers and returns the settings of each training run.

    The fake training run writes its configuration and reports the given number of images per second.
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
def test_probe_determines_how_many_steps_fit(demonstrated, capsys, rate, steps, every):
    probe, training = demonstrated(rate, "optimizer.lr=1e-4")
    assert {"train.steps=12", "optimizer.lr=1e-4"} <= set(probe)
    assert set(training) == {
        f"train.steps={steps}", f"train.validate_every={every}", f"checkpoint.every={every}", "optimizer.lr=1e-4",
    }  # fmt: skip
    assert f"{rate:.0f} images/s: training for {steps} steps; " in capsys.readouterr().out


def test_requested_steps_are_used(demonstrated):
    assert demonstrated(160.0, "train.steps=40") == [("train.steps=40",)]


def test_resumed_run_keeps_its_length(demonstrated):
    """Even if the machine is faster now, because a different length would be a different run."""
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


def test_ctrl_c_ends_all_processes_with_one_line(tmp_path):
    """Uses a fake of the launcher that the demo calls first, with a worker process."""
    launchers, folder = tmp_path / "launchers", tmp_path / "work"
    launchers.mkdir()
    folder.mkdir()
    for script in (SCRIPT, SCRIPT.with_name("demo_length.py")):
        shutil.copy(script, launchers)
    (launchers / "shards.py").write_text(LAUNCHER)
    # If SIGINT is ignored, as in a background job, children ignore it too.
    run = f"runpy.run_path({str(launchers / 'demo.py')!r}, run_name='__main__')"
    handle = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    beside = f"sys.path.insert(0, {str(launchers)!r})"
    command = [sys.executable, "-c", f"import runpy, signal, sys; {beside}; {handle}; {run}"]
    demo = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (folder / "workers").is_file() or not (folder / "workers").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    demo.send_signal(signal.SIGINT)
    _, error = demo.communicate(timeout=30)
    assert demo.returncode == 75
    start = "stopped: to resume from the last checkpoint, run python launchers/demo.py --run runs/"
    assert error.strip().startswith(start)
    assert "\n" not in error.strip()
    assert not is_running(int((folder / "workers").read_text()))


def is_running(process: int) -> bool:
    """Return whether a process runs; zombies do not count."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
