"""launchers/predict.py: exit codes, messages, several workers, and a command that is killed and repeated."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import command_of, load_script
from runs import uml_tree
from uml_dist import load_run
from uml_shards import open_split
from untrained import write_untrained

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launchers" / "predict.py"

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def trained(partly_known, tmp_path_factory):
    """Exported weights, and a folder of 24 images."""
    folder = tmp_path_factory.mktemp("predicting")
    write_untrained(uml_tree(partly_known), folder / "run")
    split = open_split(partly_known / "train")
    (folder / "images").mkdir()
    for number in range(24):
        image = Image.fromarray(split.read(number).image)
        image.resize((32 + number, 40)).save(folder / "images" / f"case {number:02d}.png")
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs the command in this process and returns exit code, stdout and stderr."""
    return command_of(load_script(SCRIPT), monkeypatch, capsys)


def rows_of(out):
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.png"))}


@pytest.fixture(scope="module")
def whole(trained):
    """The predictions of one command that nothing has interrupted."""
    out = trained / "whole"
    words = ["--cpu", "--run", trained / "run", trained / "images", "--out", out]
    subprocess.run([sys.executable, SCRIPT, *words], check=True, capture_output=True)
    return out


def test_bad_inputs_end_the_command_with_2_after_all_others(command, trained, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes((trained / "images" / "case 00.png").read_bytes()[:200])
    images = sorted((trained / "images").iterdir())[:3]
    code, printed, error = command("--run", trained / "run", tmp_path, *images, "--out", tmp_path / "out")
    assert code == 2
    assert len(rows_of(tmp_path / "out")) == 3
    assert printed.splitlines()[0].startswith("3 cases predicted")
    assert f"{tmp_path / 'out' / 'failed.csv'}" in printed
    assert re.fullmatch(r"error: 2 inputs have no prediction, see \S+failed.csv, first \S+cut.png: [^\n]+\n", error)


def test_threshold_comes_from_the_evaluation_of_the_run_or_else_from_the_inputs(command, trained, tmp_path):
    run = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    images = trained / "images"
    code, printed, _ = command("--run", run, images, "--out", tmp_path / "rank", "--coverage", 0.75)
    assert code == 0
    assert "18 accepted, 6 referred" in printed
    rows = rows_of(tmp_path / "rank")
    referred = [float(row["image_vacuity"]) for row in rows if row["decision"] == "refer"]
    assert min(referred) >= max(float(row["image_vacuity"]) for row in rows if row["decision"] == "accept")
    assert rows[0]["decided_by"].endswith("0.75 of these 24 cases, by rank")
    folder = run / "evaluation" / "val"
    folder.mkdir(parents=True, exist_ok=True)
    vacuities = np.linspace(0, 1, 11)
    (folder / "cases.csv").write_text("key,image_vacuity\n" + "".join(f"{n},{u:g}\n" for n, u in enumerate(vacuities)))
    name = load_run(run, device="cpu").checkpoint.name
    for checkpoint, words in (("step-000009", "by rank"), (name, "0.75 of 11 cases of the validation split val")):
        (folder / "metrics.json").write_text(json.dumps({"checkpoint": checkpoint, "weights": "trained"}))
        code, printed, _ = command("--run", run, images, "--out", tmp_path / "rank", "--coverage", 0.75)
        assert code == 0
        assert "24 of them by an earlier command" in printed
        assert words in printed
    for row in rows_of(tmp_path / "rank"):
        assert row["decision"] == ("accept" if float(row["image_vacuity"]) <= 0.8 else "refer")


def test_two_workers_predict_what_one_does(whole, trained, tmp_path):
    out = tmp_path / "two"
    words = [
        "--cpu",
        "--run",
        trained / "run",
        trained / "images",
        "--out",
        out,
        "--num_gpus",
        "2",
        "--batch-size",
        "4",
    ]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["name"] for row in rows_of(out)] == [row["name"] for row in rows_of(whole)]
    for one, two in zip(rows_of(whole), rows_of(out), strict=True):
        assert float(one["image_vacuity"]) == pytest.approx(float(two["image_vacuity"]), abs=1e-5)
        assert one["area_px_lesion"] == two["area_px_lesion"]
    one, two = files_of(whole), files_of(out)
    assert one.keys() == two.keys()
    for name in one:
        if name.parts[0] == "masks":
            assert one[name] == two[name]


def test_killed_command_continues_and_loses_nothing(whole, trained, tmp_path):
    out = tmp_path / "killed"
    words = ["--cpu", "--run", trained / "run", trained / "images", "--out", out, "--batch-size", "1"]
    with subprocess.Popen([sys.executable, SCRIPT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        journal = out / "predictions.jsonl"
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 4):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (out / "table.csv").exists()
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"24 cases predicted, \d+ of them by an earlier command", done.stdout)
    assert [row["name"] for row in rows_of(out)] == [row["name"] for row in rows_of(whole)]
    assert {name for name in files_of(out) if not name.name.startswith(".")} == files_of(whole).keys()
    masks = {name: data for name, data in files_of(whole).items() if name.parts[0] == "masks"}
    assert masks.items() <= files_of(out).items()


def test_model_of_the_installation(command, trained, tmp_path):
    code, printed, error = command("--model", "phantom", trained / "images" / "case 00.png", "--out", tmp_path / "out")
    assert (code, error) == (0, "")
    assert printed.startswith("1 case predicted, ")
    assert rows_of(tmp_path / "out")[0]["prediction"] in ("benign", "malignant")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "RUN", "absent.png"], "error: input absent.png does not exist"),
        (["--model", "absent", "IMAGES"], "error: no model 'absent' comes with the package: there is phantom"),
        (["--run", "absent", "IMAGES"], "error: .*absent"),
        (["--run", "RUN", "IMAGES", "--coverage", "2"], "error: the coverage is 2, but must be a share above 0"),
        (["--run", "RUN", "IMAGES", "--set", "spacing=1,1,1"], "error: the data of run .* without a setting 'spacing'"),
        (["--run", "RUN", "IMAGES", "--batch-size", "0"], "error: the batch size is 0"),
        (["--run", "RUN", "IMAGES", "--write", "masks,heat"], "error: 'heat' is not an output"),
        (["--run", "RUN", "IMAGES", "--set", "windows.strde=3"], "error: .*did you mean.*stride"),
    ],
)
def test_wrong_argument_is_one_line(command, trained, tmp_path, words, message):
    places = {"RUN": trained / "run", "IMAGES": trained / "images"}
    code, printed, error = command(*(places.get(word, word) for word in words), "--out", tmp_path / "out")
    assert (code, printed) == (2, "")
    assert re.fullmatch(f"{message}[^\n]*\n", error), error
    assert not (tmp_path / "out").exists()


def test_two_commands_do_not_write_into_one_folder(command, trained, tmp_path):
    import fcntl

    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, error = command("--run", trained / "run", trained / "images", "--out", tmp_path / "out")
    assert code == 2
    assert "another command is writing into" in error
    assert os.listdir(tmp_path / "out") == [".lock"]
