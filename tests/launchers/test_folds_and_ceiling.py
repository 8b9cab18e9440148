"""evaluate.py on the held-out fold of a run, and on the perfect model; a run with folds is resumed and exported."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from commands import command_of, leave_world, load_script
from runs import train, uml_tree
from uml_dist import load_run
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.inference.coverage import rule_of
from uml_dist.run.export import export
from uml_dist.train.setup import find_resume, prepare
from uml_shards import open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.truth import TRUTH, oracle
from uml_shards.sources.encode import encode_json
from uml_shards.write.writer import write_split
from worlds import run_world

SCRIPT = Path(__file__).parents[2] / "launchers" / "evaluate.py"
NAME = "train-fold-1-of-3"

pytestmark = pytest.mark.distributed


class WithoutTruth(PhantomImporter):
    """The phantom as a real data set would be."""

    def encode(self, item):
        key, components = super().encode(item)
        label = json.loads(components["json"])["label"]
        return key, {name: data for name, data in components.items() if name != TRUTH} | {"json": encode_json(label)}


def tree_of(shards, **words):
    return uml_tree(shards, train__steps=3, **{"data__folds": 3, "data__fold": 1, **words})


@pytest.fixture(scope="module")
def trained(partly_known, tmp_path_factory):
    """A run of three steps on two ranks that has held out a fold."""
    run = tmp_path_factory.mktemp("folds") / "run"
    run_world(2, train, tree_of(partly_known), str(run), True)
    return run


@pytest.fixture
def run_folder(trained, tmp_path):
    """A copy of that run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs evaluate.py in this process and returns exit code, stdout and stderr."""
    leave_world(monkeypatch)
    return command_of(load_script(SCRIPT), monkeypatch, capsys)


def record_of(run, name):
    return json.loads((run / "evaluation" / name / "metrics.json").read_text())


def keys_of(run, name):
    with (run / "evaluation" / name / "cases.csv").open(newline="") as stream:
        return [row["key"] for row in csv.DictReader(stream)]


def held_out_keys(shards):
    setup = prepare(validate(tree_of(shards), "test"), 1)
    return sorted(setup.validations[0].split.keys())


def assert_refused(done, message):
    code, printed, error = done
    assert (code, printed) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    assert re.search(message, error), error


def test_the_held_out_fold_is_evaluated_as_in_the_validation(command, run_folder, partly_known):
    assert (run_folder / "evaluation" / NAME / "sheet.png").is_file()  # of the validation
    code, printed, error = command("--run", run_folder)
    assert (code, error) == (0, "")
    record = record_of(run_folder, NAME)
    assert (record["split"], record["fold"]) == (NAME, {"folds": 3, "fold": 1, "seed": 0})
    assert record["folds_data_digest"] == open_split(partly_known / "train").digest
    assert re.search(r"^\S+, step-000003: \d+ samples of \S+train, fold 1 of 3$", printed, re.MULTILINE)
    assert keys_of(run_folder, NAME) == held_out_keys(partly_known)
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    (validation,) = [line for line in lines if "validation_loss" in line]
    found = {name.removeprefix("validation_"): value for name, value in validation.items() if "validation_" in name}
    assert record["metrics"] == pytest.approx(found, rel=1e-4, abs=1e-5)
    # The thresholds of predictions come from this evaluation.
    rule = rule_of(load_run(run_folder, device="cpu"), [{"image_vacuity": 0.5}], 0.8)
    assert rule is not None
    assert f"cases of the validation split {NAME}" in rule.origin


def test_moved_shards_have_the_same_fold_and_others_have_none(command, run_folder, partly_known, tmp_path):
    moved = Path(shutil.copytree(partly_known, tmp_path / "moved"))
    export(run_folder, tmp_path / "weights")
    assert command("--run", tmp_path / "weights", "--shards", moved)[0] == 0
    assert keys_of(tmp_path / "weights", NAME) == held_out_keys(partly_known)
    manifest = moved / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dataset": "phantom"', '"dataset": "other"'))
    message = r"drew its folds from the shards of its training, but those in .*moved are others: if they have moved"
    assert_refused(command("--run", run_folder, "--shards", moved), message)
    shutil.rmtree(moved)
    assert_refused(command("--run", run_folder, "--shards", moved), "are not all there")
    assert_refused(command("--run", run_folder, "--split", "none"), r"there is train, val, fold, the held-out fold\n")


def test_a_run_resumes_with_its_fold_only(trained, partly_known):
    found = find_resume(prepare(validate(tree_of(partly_known), "test"), 2), trained, "auto")
    assert found is not None
    assert found[1].step == 3
    for words, change in (
        ({"data__fold": 2}, r"data\.fold"),
        ({"data__fold_seed": 1}, r"data\.fold_seed"),
        ({"data__folds": 0, "data__fold": 0}, r"data\.folds"),
    ):
        with pytest.raises(UmlError, match=f"started with another configuration .*{change}") as raised:
            find_resume(prepare(validate(tree_of(partly_known, **words), "test"), 2), trained, "auto")
        assert "\n" not in str(raised.value)


def test_the_ceiling_is_that_of_the_perfect_model_whatever_the_run_learnt(command, run_folder, partly_known):
    code, printed, error = command("--run", run_folder, "--split", "val", "--ceiling")
    assert (code, error) == (0, "")
    record = record_of(run_folder, "val-ceiling")
    assert (record["ceiling"], record["split"]) == (True, "val")
    assert not {"checkpoint", "step", "weights", "fold"} & record.keys()
    best = oracle(open_split(partly_known / "val"))
    expected = {"auroc": best.auroc, "accuracy": best.accuracy, "dice": best.dice, "image_ece": best.ece}
    assert {name: record["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert "image_augrc_vacuity" in record["left_out"]
    assert "\nceiling: predictions are the true probabilities that the generated data store\n" in printed
    assert printed.startswith(f"the perfect model: 12 samples of {partly_known / 'val'}\n")
    assert (run_folder / "evaluation" / "val-ceiling" / "sheet.png").is_file()
    assert record["data_digest"] == open_split(partly_known / "val").digest


def test_the_held_out_fold_has_a_ceiling(command, run_folder):
    assert command("--run", run_folder, "--ceiling")[0] == 0
    record = record_of(run_folder, f"{NAME}-ceiling")
    assert (record["fold"]["fold"], record["ceiling"]) == (1, True)
    assert len(keys_of(run_folder, f"{NAME}-ceiling")) == record["counts"]["cases"]


def test_data_without_true_probabilities_and_options_of_a_network_are_refused(command, run_folder, tmp_path):
    for words in (["--threshold-split", "val"], ["--second-split", "val"], ["--weights", "trained"], ["--tasks-only"]):
        code, _, error = command("--run", run_folder, "--ceiling", *words)
        assert code == 2
        assert "--ceiling evaluates no network" in error
    importer = WithoutTruth(options=Options(size=32, counts={"val": 4}))
    write_split(importer, "val", importer.splits()["val"], tmp_path / "real" / "val", quiet=True)
    done = command("--run", run_folder, "--shards", tmp_path / "real", "--split", "val", "--ceiling")
    assert_refused(done, r"real/val does not store the true probabilities of its masks and classes: there is a ceiling")
