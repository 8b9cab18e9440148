"""metrics.json, cases.csv and the printed table."""

import csv
import json
import math

import numpy as np
import pytest

from case_rows import cases_of
from manifests import manifest_of
from plain_recipe import evaluate
from runs import PartlyKnown
from uml_dist.evaluate import Evaluation, summarise
from uml_dist.evaluate.results import metrics_record, printed_table, write_cases, write_metrics
from uml_dist.metrics.cases import Cases
from uml_dist.metrics.families import STANDARD
from uml_shards.importers import Options
from uml_shards.read.split import open_split
from uml_shards.write.writer import write_split

SAMPLES = 24


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """24 phantoms, some without label, some without mask."""
    folder = tmp_path_factory.mktemp("results") / "val"
    importer = PartlyKnown(options=Options(size=16, counts={"val": SAMPLES}, lossless=True))
    write_split(importer, "val", importer.splits()["val"], folder, quiet=True)
    return open_split(folder)


@pytest.fixture(scope="module")
def cases(split):
    return evaluate(str(split.path), 8, draws=1000)[0]


def result_of(cases, manifest, empty="one"):
    return Evaluation(manifest, empty, STANDARD, summarise(cases, manifest, empty), cases, ())


def test_the_record_says_figures_intervals_counts_and_what_they_mean(split, cases, tmp_path):
    record = metrics_record(result_of(cases, split.manifest))
    write_metrics(tmp_path / "evaluation" / "metrics.json", record)
    read = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert read["metrics"] == summarise(cases, split.manifest)
    assert read["definitions"].keys() == read["metrics"].keys()
    assert read["intervals"]["dice"][0] < read["metrics"]["dice"] < read["intervals"]["dice"][1]
    kind = {"kind": "bootstrap percentile over cases", "bias_corrected": ["image_ece", "pixel_ece", "pixel_ece_border"]}
    assert read["interval"] == {**kind, "level": 0.95, "draws": 1000, "seed": 0}
    assert (read["counts"]["samples"], read["counts"]["cases"]) == (SAMPLES, SAMPLES)
    assert (read["counts"]["labelled"], read["counts"]["masked"]) == (split.manifest.labelled, split.manifest.masked)
    assert read["counts"]["pixels"] == 256 * split.manifest.masked
    assert (read["empty_masks"], "are 1" in read["empty_masks_rule"]) == ("one", True)
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["metrics.json"]


def test_the_rows_are_the_cases_by_key(split, cases, tmp_path):
    write_cases(tmp_path / "cases.csv", result_of(cases, split.manifest))
    with (tmp_path / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["key"] for row in rows] == sorted(split.keys())
    names = split.manifest.classes
    for row, case in zip(rows, cases, strict=True):
        assert row["label"] == ("" if case["label"] < 0 else names[case["label"]])
        probabilities = [float(row[f"probability_{name}"]) for name in names]
        assert probabilities == pytest.approx([case["probability_0"], case["probability_1"]], rel=1e-5)
        assert row["prediction"] == names[int(np.argmax(probabilities))]
        assert float(row["pixel_vacuity"]) == pytest.approx(case["pixel_vacuity"], rel=1e-5)
        assert (row["image_nll"] == "") == math.isnan(case["image_nll"])
        assert (row["dice_lesion"] == "") == (row["iou_lesion"] == "") == (case["pixels"] == 0)
        if case["pixels"]:
            dice, iou = float(row["dice_lesion"]), float(row["iou_lesion"])
            assert dice == pytest.approx(2 * iou / (1 + iou), abs=1e-4)
    assert {"", "benign"} <= {row["label"] for row in rows} or {"", names[0]} <= {row["label"] for row in rows}


def test_writing_again_changes_no_byte(split, cases, tmp_path):
    for name in ("one.csv", "two.csv"):
        write_cases(tmp_path / name, result_of(cases, split.manifest))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_a_key_with_commas_and_quotes_stays_one_cell(tmp_path):
    key = 'a,"b";c'
    case = {"key": key, "label": 1, "probability_0": 0.25, "probability_1": 0.75, "image_nll": 0.2876820724517809}
    write_cases(tmp_path / "cases.csv", result_of(cases_of([case]), manifest_of()))
    with (tmp_path / "cases.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    expected = {"key": key, "label": "malignant", "prediction": "malignant", "image_nll": "0.287682"}
    assert float(row.pop("image_entropy")) == pytest.approx(0.562335, rel=1e-5)
    assert row == {**expected, "probability_benign": "0.25", "probability_malignant": "0.75"}


def test_keys_and_classes_are_no_formulas(tmp_path):
    case = {"key": "=1+1", "label": 1, "probability_0": 0.25, "probability_1": 0.75, "image_nll": 0.25}
    manifest = manifest_of(classes=("@SUM(1)", '=HYPERLINK("http://x")'))
    write_cases(tmp_path / "cases.csv", result_of(cases_of([case]), manifest))
    with (tmp_path / "cases.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["key"], row["label"], row["image_nll"]) == ("'=1+1", '\'=HYPERLINK("http://x")', "0.25")
    assert not any(cell.startswith(("=", "@")) for cell in [*row, *row.values()])


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    write_metrics(tmp_path / "metrics.json", {"metrics": {}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(tmp_path / "metrics.json", {"metrics": {"dice": math.nan}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"metrics": {}}


def test_the_table_has_a_line_for_each_metric_with_its_interval(split, cases):
    record = metrics_record(result_of(cases, split.manifest))
    low, high = record["intervals"]["dice"]
    lines = printed_table(record).splitlines()
    assert [line.split()[0] for line in lines[2 : lines.index("")]] == list(record["metrics"])
    assert any(line.startswith("image_ece, pixel_ece and pixel_ece_border: larger in small samples") for line in lines)
    assert f"{record['metrics']['dice']:.4f}  {low:.4f} to {high:.4f}" in printed_table(record)
    assert "none: there are no labels" in printed_table(metrics_record(result_of(Cases(), split.manifest)))


def test_a_table_with_dice_states_the_rule_for_empty_masks(split, cases):
    one, left_out = (metrics_record(result_of(cases, split.manifest, empty)) for empty in ("one", "leave-out"))
    assert (one["empty_masks"], left_out["empty_masks"]) == ("one", "leave-out")
    assert printed_table(one).splitlines()[-1] == f"empty masks: {one['empty_masks_rule']}"
    assert "are left out of its Dice and IoU" in printed_table(left_out).splitlines()[-1]
    unmasked = cases_of([{name: value for name, value in case.items() if "pixel" not in name} for case in cases])
    assert "empty masks" not in printed_table(metrics_record(result_of(unmasked, split.manifest)))
