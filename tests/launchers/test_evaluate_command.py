"""launchers/evaluate.py and load_run on a run trained with ZeRO-3 on two ranks: files, table, one-line errors."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from broken_shards import restate_digests
from commands import command_of, leave_world, load_script
from runs import train, uml_tree
from shard_server import ShardServer, serving
from uml_dist import load_run
from uml_dist.batch import collate
from worlds import run_world

SCRIPT = Path(__file__).parents[2] / "launchers" / "evaluate.py"
FILES = {"metrics.json", "cases.csv", "sheet.png"}

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def trained(partly_known, tmp_path_factory):
    """A run of three steps with a validation of the average, on two ranks at ZeRO stage 3."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    tree = uml_tree(partly_known, train__steps=3, train__ema=0.9, zero__stage=3)
    run_world(2, train, tree, str(run), True)
    return run


@pytest.fixture
def run_folder(trained, tmp_path):
    """A copy of that run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs the command in this process and returns exit code, stdout and stderr."""
    leave_world(monkeypatch)
    return command_of(load_script(SCRIPT), monkeypatch, capsys)


def assert_refused(done, message):
    code, printed, error = done
    assert (code, printed) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    assert re.search(message, error), error


def validation_of(run):
    """Return the metrics of the last validation during training."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if "validation_loss" in record][-1]
    return {name.removeprefix("validation_"): value for name, value in last.items() if name.startswith("validation_")}


def test_validation_under_zero_3_draws_a_picture(trained):
    assert [path.name for path in (trained / "evaluation" / "val").iterdir()] == ["sheet.png"]
    assert Image.open(trained / "evaluation" / "val" / "sheet.png").size[0] == 1600


def test_command_reproduces_the_validation_and_writes_all_files(command, run_folder):
    shutil.rmtree(run_folder / "evaluation")
    code, printed, error = command("--run", run_folder)
    assert (code, error) == (0, "")
    folder = run_folder / "evaluation" / "val"
    assert {path.name for path in folder.iterdir()} == FILES
    record = json.loads((folder / "metrics.json").read_text())
    assert record["metrics"] == pytest.approx(validation_of(run_folder), rel=1e-4, abs=1e-5)
    assert (record["split"], record["step"], record["counts"]["cases"]) == ("val", 3, 12)
    assert re.fullmatch("[0-9a-f]{64}", record["data_digest"])
    assert record["versions"]["torch"] == torch.__version__
    with (folder / "cases.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 12
    for name, value in record["metrics"].items():
        assert re.search(rf"^{name} +{re.escape(f'{value:.4f}')}", printed, re.MULTILINE)
    assert printed.endswith("".join(f"{folder / name}\n" for name in ("metrics.json", "cases.csv", "sheet.png")))


def test_a_report_is_written_beside_the_metrics_if_it_is_asked_for(command, run_folder):
    code, printed, error = command("--run", run_folder, "--report")
    assert (code, error) == (0, "")
    path = run_folder / "evaluation" / "val" / "report.html"
    assert printed.endswith(f"{path}\n")
    page = path.read_text()
    for part in ("headline", "calibration", "coverage", "cases", "metrics", "training", "configuration"):
        assert f'<section id="{part}"' in page
    for panel in ("image", "truth", "prediction", "vacuity", "reliable mask"):
        assert f'alt="{panel}"' in page
    assert f"{json.loads((path.parent / 'metrics.json').read_text())['metrics']['dice']:.4f}" in page


def test_another_split_checkpoint_and_shard_folder_can_be_evaluated(command, run_folder, partly_known, tmp_path):
    moved = Path(shutil.copytree(partly_known, tmp_path / "moved"))
    config = run_folder / "config.toml"
    config.write_text(config.read_text().replace(str(partly_known), str(tmp_path / "gone")))
    assert_refused(command("--run", run_folder), "gone.* name their folder by --shards")
    words = ("--split", "train", "--checkpoint", "step-000003", "--batch-size", 40, "--empty-masks", "leave-out")
    code, _, error = command("--run", run_folder, "--shards", moved, *words)
    assert (code, error) == (0, "")
    record = json.loads((run_folder / "evaluation" / "train" / "metrics.json").read_text())
    assert (record["checkpoint"], record["split"], record["counts"]["cases"]) == ("step-000003", "train", 96)
    assert record["counts"]["masked"] == 64
    assert (record["empty_masks"], "left out" in record["empty_masks_rule"]) == ("leave-out", True)


def test_weights_are_those_of_the_validations_unless_others_are_named(command, run_folder):
    folders = {"averaged": "val", "trained": "val-trained"}
    metrics = {}
    for weights, words in (("averaged", ()), ("trained", ("--weights", "trained"))):
        assert command("--run", run_folder, *words)[0] == 0
        record = json.loads((run_folder / "evaluation" / folders[weights] / "metrics.json").read_text())
        assert record["weights"] == weights
        metrics[weights] = record["metrics"]
    assert metrics["averaged"] == pytest.approx(validation_of(run_folder), rel=1e-4, abs=1e-5)
    assert metrics["trained"]["loss"] != pytest.approx(metrics["averaged"]["loss"], rel=1e-3)


def test_averaged_weights_of_a_run_without_any_are_refused(command, run_folder):
    config = run_folder / "config.toml"
    config.write_text(config.read_text().replace("ema = 0.9\n", ""))
    assert command("--run", run_folder)[0] == 0
    message = "run has no averaged weights, since train.ema was not set: use the trained ones$"
    assert_refused(command("--run", run_folder, "--weights", "averaged"), message)


def test_rule_for_empty_masks_is_that_of_the_validations_by_default(command, run_folder):
    def evaluated(*words):
        code, printed, error = command("--run", run_folder, *words)
        assert (code, error) == (0, "")
        record = json.loads((run_folder / "evaluation" / "val" / "metrics.json").read_text())
        assert f"empty masks: {record['empty_masks_rule']}\n" in printed
        return record["empty_masks"]

    assert evaluated() == "one"
    config = run_folder / "config.toml"
    text = config.read_text()
    assert 'empty_masks = "one"' in text
    config.write_text(text.replace('empty_masks = "one"', 'empty_masks = "leave-out"'))
    assert evaluated() == "leave-out"
    assert evaluated("--empty-masks", "one") == "one"
    config.write_text(text.replace('empty_masks = "one"\n', ""))  # a run from before this setting existed
    assert evaluated() == "one"


def test_windows_and_metrics_can_be_set_for_an_evaluation(command, run_folder):
    settings = ("windows.use=always", "evaluation.surfaces=voxel", "evaluation.largest_component=true")
    code, printed, error = command("--run", run_folder, *settings)
    assert (code, error) == (0, "")
    record = json.loads((run_folder / "evaluation" / "val" / "metrics.json").read_text())
    assert record["notes"] == {
        "windows": "32 x 32, every 16 x 16, gaussian weights, mirror border",
        "classes": "the largest component of each",
        "surface_distances": "in pixels",
    }
    assert "surface_failures" in record["metrics"]
    assert all(f"\n{title.replace('_', ' ')}: {line}\n" in printed for title, line in record["notes"].items())
    assert_refused(
        command("--run", run_folder, "windows.stride=40", "windows.use=always"), "leaves gaps between windows"
    )
    assert_refused(command("--run", run_folder, "data.size=64"), "would change the trained run")


def test_missing_run_split_or_checkpoint_is_one_line(command, run_folder, tmp_path):
    assert_refused(command("--run", tmp_path / "none"), r"none does not exist: name the folder of a run")
    assert_refused(command("--run", tmp_path), r"contains no run \(no config.toml\)")
    assert_refused(command("--run", run_folder, "--split", "tset"), r"no split 'tset' in .*: there is train, val")
    assert_refused(
        command("--run", run_folder, "--checkpoint", "step-9"),
        r"no checkpoint 'step-9': it has best, latest, step-000003",
    )
    shutil.rmtree(run_folder / "checkpoints")
    assert_refused(command("--run", run_folder), r"has no checkpoint yet")


def test_other_shards_and_damaged_checkpoints_are_refused_in_one_line(command, run_folder, partly_known, tmp_path):
    others = Path(shutil.copytree(partly_known, tmp_path / "others"))
    manifest = others / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dataset": "phantom"', '"dataset": "other"'))
    config = run_folder / "config.toml"
    text = config.read_text()
    config.write_text(text.replace(str(partly_known), str(others)))  # as if the shards had been made again
    assert_refused(command("--run", run_folder), r"trained on other shards than those in .*others: name the data set")
    config.write_text(text)
    weights = run_folder / "checkpoints" / "step-000003" / "uml.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert_refused(command("--run", run_folder), r"uml.safetensors is missing or damaged")


def test_bad_sample_is_one_line_and_leaves_no_metrics(command, run_folder, partly_known, tmp_path):
    broken = Path(shutil.copytree(partly_known, tmp_path / "broken"))
    tar = broken / "val" / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    image = max(data.find(b"\xff\xd8\xff"), data.find(b"\x89PNG"))
    data[image : image + 64] = bytes(64)
    tar.write_bytes(data)
    restate_digests(broken / "val")
    code, _, error = command("--run", run_folder, "--shards", broken)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]*shard-000000.tar[^\n]+\n", error)
    assert not (run_folder / "evaluation" / "val" / "metrics.json").exists()


def test_shards_behind_a_url_give_the_same_cases(command, run_folder, partly_known, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    command("--run", run_folder)
    cases = (run_folder / "evaluation" / "val" / "cases.csv").read_text()
    shutil.rmtree(run_folder / "evaluation")
    with serving(ShardServer(partly_known)) as server:
        code, _, error = command("--run", run_folder, "--shards", server.url)
        assert (code, error) == (0, "")
        assert_refused(command("--run", run_folder, "--shards", server.url, "--split", "absent"), "404 Not Found")
    assert (run_folder / "evaluation" / "val" / "cases.csv").read_text() == cases


def test_run_loads_in_python_with_its_networks_in_evaluation_mode(trained):
    run = load_run(trained, device="cpu")
    assert not any(network.training for network in run.networks.values())
    assert not any(parameter.requires_grad for network in run.networks.values() for parameter in network.parameters())
    split = run.open_split("val")
    stream = run.stream(split)
    batch = collate(stream, [stream.sample(number) for number in range(3)], range(3))
    prediction = run.predict(batch)
    assert prediction.pixel_probability is not None
    assert prediction.pixel_probability.shape == (3, 2, 32, 32)
    assert prediction.maps["reliable mask"].shape == (3, 32, 32)
    assert load_run(trained, "latest", "cpu").state == run.state


def test_importing_the_package_does_not_import_torch():
    code = "import sys, uml_dist; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.launch
def test_two_workers_give_the_same_metrics_as_one(command, run_folder):
    command("--run", run_folder)
    metrics, cases = (run_folder / "evaluation" / "val" / name for name in ("metrics.json", "cases.csv"))
    alone, rows = json.loads(metrics.read_text()), cases.read_text()
    shutil.rmtree(run_folder / "evaluation")
    line = [sys.executable, str(SCRIPT), "--run", str(run_folder), "--num_gpus", "2", "--cpu", "--batch-size", "5"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("12 samples of") == 1
    together = json.loads(metrics.read_text())
    assert together["counts"] == alone["counts"]
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-5, abs=1e-6)
    assert [row.split(",")[0] for row in cases.read_text().splitlines()] == [r.split(",")[0] for r in rows.splitlines()]


def test_a_second_split_is_told_apart_by_name_and_by_folder(command, run_folder, partly_known, tmp_path, monkeypatch):
    code, printed, error = command("--run", run_folder, "--second-split", "train")
    assert (code, error) == (0, "")
    record = json.loads((run_folder / "evaluation" / "val" / "metrics.json").read_text())
    assert (record["split"], record["counts"]["cases"]) == ("val", 12)
    facts = {name: record["second_split"][name] for name in ("dataset", "split", "cases")}
    assert facts == {"dataset": "phantom", "split": "train", "cases": 96}
    assert re.search(r"^ood_auroc_vacuity_mean +0\.\d{4} ", printed, re.MULTILINE)
    assert "ood_auroc: against 96 images of phantom train\n" in printed
    monkeypatch.chdir(tmp_path)
    shutil.copytree(partly_known / "train", tmp_path / "train")
    assert_refused(command("--run", run_folder, "--second-split", "train"), r"is a split of .* and a folder here: name")
    code, _, error = command("--run", run_folder, "--second-split", "./train")
    assert (code, error) == (0, "")
    again = json.loads((run_folder / "evaluation" / "val" / "metrics.json").read_text())
    assert again["metrics"] == record["metrics"]


def test_second_splits_that_cannot_be_compared_are_refused_in_one_line(command, run_folder, partly_known, tmp_path):
    assert_refused(command("--run", run_folder, "--second-split", "val"), "val is the split that is evaluated")
    message = r"--second-split tset is neither a folder nor a split of .*: it has train, val"
    assert_refused(command("--run", run_folder, "--second-split", "tset"), message)
    grey = Path(shutil.copytree(partly_known / "train", tmp_path / "grey"))
    text = json.loads((grey / "manifest.json").read_text())
    text |= {"channels": 1, "statistics": {"mean": [0.5], "std": [0.5]}}
    (grey / "manifest.json").write_text(json.dumps(text))
    message = "the number of channels is 1, that of the training 3"
    assert_refused(command("--run", run_folder, "--second-split", grey), message)
