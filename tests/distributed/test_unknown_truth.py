"""Any mixture of known and unknown labels and masks trains and evaluates; what cannot be formed is named."""

import csv
import json
from pathlib import Path

import pytest

from commands import command_of, leave_world, load_script
from partial import make_partial
from runs import train, uml_tree
from uml_dist import load_run
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.evaluate import evaluate as evaluate_all
from uml_dist.evaluate.results import write_cases
from uml_dist.train.dry_run import dry_run
from uml_dist.train.setup import prepare
from uml_shards import open_split
from worlds import run_world

SCRIPT = Path(__file__).parents[2] / "launchers" / "evaluate.py"

pytestmark = pytest.mark.distributed


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Return a function that evaluates a run: the record, the rows and what was printed."""
    leave_world(monkeypatch)
    command = command_of(load_script(SCRIPT), monkeypatch, capsys)

    def evaluate(run, split="val"):
        code, printed, error = command("--run", run, "--split", split)
        assert (code, error) == (0, "")
        folder = run / "evaluation" / split
        with (folder / "cases.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert (folder / "sheet.png").stat().st_size > 5000
        return json.loads((folder / "metrics.json").read_text()), rows, printed

    return evaluate


def trained(shards, run, **words):
    """Train two steps with a validation; return the terms of the last step."""
    tree = uml_tree(shards, train__steps=2, **words)
    return run_world(1, train, tree, str(run), True)[0].terms[-1]


@pytest.mark.parametrize("stated", ["masks", "labels masks"])
def test_data_without_labels_train_the_segmentation(tmp_path, evaluate, stated):
    terms = trained(make_partial(tmp_path / "data", "masks", stated), tmp_path / "run")
    assert terms["classification"] == 0 < terms["segmentation"]
    record, rows, printed = evaluate(tmp_path / "run")
    assert {"loss", "dice", "pixel_nll"} <= set(record["metrics"])
    assert record["left_out"]["accuracy"] == "an image with a label"
    assert "left out, needs an image with a label: image_nll, accuracy" in printed
    assert ("prediction" in rows[0]) == ("labels" in stated), "a class without a name is not predicted"
    assert all(row["dice_lesion"] for row in rows)


def test_run_without_classes_is_evaluated_on_labelled_data(tmp_path):
    trained(make_partial(tmp_path / "data", "masks"), tmp_path / "run")
    run = load_run(tmp_path / "run", device="cpu", shards=make_partial(tmp_path / "labelled", "labels masks"))
    split = run.open_split("val")
    assert split.manifest.classes == ("benign", "malignant")
    result = evaluate_all(run.predictor, run.stream(split), batch_size=4)
    assert "dice" in result.metrics
    assert {"accuracy", "image_nll"} <= set(result.left_out)
    write_cases(tmp_path / "cases.csv", result)
    with (tmp_path / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["label"] for row in rows} == {"benign", "malignant"}
    assert "prediction" not in rows[0]


@pytest.mark.parametrize("stated", ["labels", "labels masks"])
def test_data_without_masks_train_the_classification(tmp_path, evaluate, stated):
    data = make_partial(tmp_path / "data", "labels", stated)
    terms = trained(data, tmp_path / "run", train__best="accuracy")
    assert terms["segmentation"] == 0 < terms["classification"]
    record, rows, printed = evaluate(tmp_path / "run")
    assert {"loss", "accuracy", "image_nll"} <= set(record["metrics"])
    assert record["left_out"]["pixel_nll"] == "an image with a mask"
    assert ("dice" in record["left_out"]) == ("masks" in stated)
    assert "left out, needs an image with a mask: pixel_nll" in printed
    assert {row["label"] for row in rows} == {"benign", "malignant"}
    assert ("pixel_vacuity" in rows[0]) == ("masks" in stated)


@pytest.mark.parametrize("stated", ["masks", "labels masks"])
def test_what_is_not_trained_is_said_before_the_start(tmp_path, stated):
    tree = uml_tree(make_partial(tmp_path / "data", "masks", stated))
    setup = prepare(validate(tree, "test"), 1)
    assert dry_run(setup, 1).startswith("no image of the training data has a label: only the segmentation is trained\n")


@pytest.mark.parametrize("stated", ["", "labels masks"])
def test_new_pictures_join_a_stream_and_are_evaluated(tmp_path, evaluate, stated):
    known = make_partial(tmp_path / "known", "labels masks")
    new = make_partial(tmp_path / "new", "", stated, split="train")
    make_partial(known, "", stated, split="test")
    trained(known, tmp_path / "run", streams__train__more_shards=[str(new)])
    record, rows, printed = evaluate(tmp_path / "run", "test")
    assert record["metrics"] == {}
    assert {"loss", "accuracy", "dice", "pixel_ece"} <= set(record["left_out"])
    assert "none: there are no labels or masks" in printed
    assert "left out, needs an image with a label or a mask: loss" in printed
    assert (record["counts"]["cases"], record["counts"]["labelled"], record["counts"]["masked"]) == (8, 0, 0)
    for row in rows:
        assert row["label"] == row["image_nll"] == row["dice_lesion"] == ""
        assert row["prediction"] in ("benign", "malignant")
        assert 0 < float(row["image_vacuity"]) <= 1
        assert 0 < float(row["pixel_vacuity"]) <= 1
        assert 0 <= float(row["area_lesion"]) <= 1
    assert record["data_digest"] == open_split(known / "test").manifest.digest


def test_shards_with_other_names_are_refused(tmp_path):
    known = make_partial(tmp_path / "known", "labels masks")
    other = make_partial(known, "", "labels", split="test") / "test" / "manifest.json"
    other.write_text(other.read_text().replace('"benign"', '"harmless"'))
    trained(known, tmp_path / "run")
    with pytest.raises(
        UmlError, match=r"the classes of split test are \('harmless', 'malignant'\), but those of stream"
    ):
        load_run(tmp_path / "run", device="cpu").open_split("test")


def test_validation_without_any_truth_is_refused_in_one_line(tmp_path):
    known = make_partial(tmp_path / "known", "labels masks", split="train")
    make_partial(known, "", split="val")
    with pytest.raises(UmlError, match=r"train\.best: no image of split val has a label or a mask, .*another split"):
        prepare(validate(uml_tree(known), "test"), 1)
