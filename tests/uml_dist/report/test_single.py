"""The report of one evaluation: what it shows, and that words of others do nothing in it."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from plain_recipe import PlainRecipe
from reported import CONFIG, Page, make_split, predict_split, record_of
from uml_dist.batch import Prediction
from uml_dist.evaluate import Predictor, evaluate
from uml_dist.evaluate.results import write_metrics
from uml_dist.metrics.families import Tasks
from uml_dist.report.parts import value
from uml_dist.report.records import ceiling_of
from uml_dist.report.single import write_report
from uml_dist.watch.text import NOTHING
from uml_shards.importers import Options, Source
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.plan import InOrder
from uml_shards.read.split import open_split
from uml_shards.read.stream import Stream
from uml_shards.sources.encode import encode_json
from uml_shards.write.writer import write_split
from volume_recipe import Balls
from watched import append, records

PARTS = [
    "headline",
    "claim",
    "calibration",
    "coverage",
    "counts",
    "cases",
    "metrics",
    "training",
    "notes",
    "configuration",
]
HOSTILE = '"><script src=//198.51.100.7/x>alert(1)</script><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return predict_split(make_split(tmp_path_factory.mktemp("single") / "test", 30))


def report(run, evaluated, **changes):
    """Write the report of an evaluation; return it and the metrics.json."""
    result, predictor, stream = evaluated
    folder = run / "evaluation" / "test"
    record = record_of(result, **{"run": run.name, **changes})
    folder.mkdir(parents=True)
    write_metrics(folder / "metrics.json", record)
    path = write_report(folder, record, result, predictor, stream, run, 8)
    assert path == folder / "report.html"
    return path.read_text(), record


@pytest.fixture(scope="module")
def written(evaluated, tmp_path_factory):
    run = tmp_path_factory.mktemp("single") / "run"
    run.mkdir()
    (run / "config.toml").write_text(CONFIG.format(seed=0, lr=0.001))
    append(run, records())
    beside = run / "evaluation" / "test-ceiling" / "metrics.json"
    write_metrics(beside, record_of(evaluated[0], metrics={"dice": 0.98765}, ceiling=True))
    return report(run, evaluated)


def test_all_parts_are_there_in_their_order(written):
    page = Page(written[0])
    assert [name for name in page.ids if name in [*PARTS, "left-out"]] == PARTS
    for words in (
        "Evaluation report",
        "step-000400, trained weights",
        "30",
        "not the probability of an error",
        "lr = 0.001",
    ):
        assert words in page.text


def test_every_metric_is_in_a_table_with_interval_and_definition(written):
    text, record = written
    cells = [row for row in Page(text).rows if len(row) == 5]
    shown = {(row[1], row[4].removesuffix("; lower is better")) for row in cells}
    for name, number in record["metrics"].items():
        assert (value(number), record["definitions"][name]) in shown, name
    low, high = record["intervals"]["dice"]
    assert Page(text).row("Dice")[2] == f"{low:.4f} to {high:.4f}"
    assert "lower is better" in Page(text).row("Image ECE")[4]


def test_the_page_needs_nothing_else_and_allows_nothing_else(written):
    text, _ = written
    page = Page(text)
    assert set(page.tags).isdisjoint({"script", "link", "iframe", "object", "form"})
    assert page.handlers == []
    outside = {one for one in page.addresses if not one.startswith(("data:image/png;base64,", "#"))}
    assert outside == {"https://arxiv.org/abs/2402.06160", "https://arxiv.org/abs/2402.09056"}
    assert "url(" not in text.replace("url(#", "")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; img-src data:" in text
    )
    ids = page.ids
    assert len(ids) == len(set(ids))


def test_cases_have_their_key_their_figures_and_their_pictures(written, evaluated):
    text, _ = written
    cards = re.findall(r'<figure class="case">.*?</figure>', text, re.DOTALL)
    assert 12 <= len(cards) <= 15
    keys = {Page(card).text.split("test-")[1][:6] for card in cards}
    assert keys <= {key.removeprefix("test-") for key in evaluated[0].cases.keys}
    for card in cards:
        assert card.count("<img") == 4
        assert re.search(r"(benign|malignant) → (benign|malignant) 0\.\d\d", Page(card).text)
        assert "Dice lesion" in Page(card).text
    wrong = [card for card in cards if "wrong class" in card]
    assert all(len(set(re.findall("benign|malignant", Page(card).text))) == 2 for card in wrong)


def test_the_perfect_model_beside_has_a_column(written):
    page = Page(written[0])
    assert "Perfect model" in page.text
    assert page.row("Dice")[3] == "0.9877"
    assert page.row("IoU")[3] == NOTHING


def test_the_perfect_model_is_that_of_the_same_data(tmp_path):
    write_metrics(
        tmp_path / "test-ceiling" / "metrics.json", {"data_digest": "0", "metrics": {"dice": 0.9, "odd": "x"}}
    )
    assert ceiling_of(tmp_path / "test", "0") == {"dice": 0.9}
    assert ceiling_of(tmp_path / "test", "1") is None
    assert ceiling_of(tmp_path / "val", "0") is None


def test_the_report_of_the_perfect_model_is_not_taken_for_that_of_the_run(evaluated, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    append(run, records())
    page = Page(report(run, evaluated, ceiling=True)[0])
    assert "The perfect model on phantom test" in page.text
    assert "not of the run" in page.text
    assert "training" not in page.ids


def test_a_run_without_configuration_and_records_is_a_page(evaluated, tmp_path):
    page = Page(report(tmp_path / "exported", evaluated)[0])
    assert [name for name in page.ids if name in PARTS] == [name for name in PARTS if name != "training"]
    assert "config.toml cannot be read" in page.text
    assert "Perfect model" not in page.text


def test_words_of_others_are_only_text(evaluated, tmp_path):
    run = tmp_path / HOSTILE.replace("/", "_")
    run.mkdir()
    (run / "config.toml").write_text(f"# </pre>{HOSTILE}\n")
    append(run, [{"step": 1, "loss": 1.0, HOSTILE: 0.5, f"validation_{HOSTILE}": 0.5}])
    result, *others = evaluated
    manifest = result.manifest.model_copy(
        update={"dataset": HOSTILE, "classes": (HOSTILE, "\u202emalignant"), "mask_classes": ("background", HOSTILE)}
    )
    hostile = type(result)(**{**vars(result), "manifest": manifest, "notes": {HOSTILE: f"line\n{HOSTILE}"}})
    page_text, _ = report(run, (hostile, *others), checkpoint=HOSTILE, versions={HOSTILE: HOSTILE})
    page = Page(page_text)
    assert "script" not in page.tags
    assert page.handlers == []
    assert "\u202e" not in page_text
    assert not any("198.51" in one or one == "x" for one in page.addresses)
    assert "alert(1)" in page.text


def test_a_split_without_masks_and_labels_names_what_is_left_out(tmp_path):
    folder = tmp_path / "shards" / "test"
    importer = PhantomImporter(options=Options(size=16, counts={"test": 6}, lossless=True))
    source = importer.splits()["test"]
    encode = importer.encode

    def without(item):
        key, components = encode(item)
        meta = json.loads(components["json"])
        kept = {name: data for name, data in components.items() if name in ("png", "jpg")}
        return key, {
            **kept,
            "json": encode_json(None) if "label" not in meta else json.dumps(meta | {"label": None}).encode(),
        }

    importer.encode = without
    write_split(importer, "test", source, folder, quiet=True)
    page = Page(report(tmp_path / "run", predict_split(open_split(folder)))[0])
    assert "left-out" in page.ids
    assert "calibration" not in page.ids
    assert "an image with a label" in page.text
    assert page.text.count("Most uncertain") == 1


class BrokenRecipe(PlainRecipe):
    """Predicts what is not a number."""

    def predict(self, batch, networks):
        found = super().predict(batch, networks)
        nothing = {name: getattr(found, name) * torch.nan for name in ("image_probability", "pixel_probability")}
        return Prediction(**nothing, image_vacuity=found.image_vacuity * torch.nan, pixel_vacuity=found.pixel_vacuity)


def test_predictions_that_are_not_numbers_are_a_page(evaluated, tmp_path):
    _, predictor, stream = evaluated
    broken = replace(predictor, recipe=BrokenRecipe())
    text, record = report(tmp_path / "run", (evaluate(broken, stream, 8, examples=False), broken, stream))
    assert record["metrics"] == {}
    assert "the predictions are not numbers" in text
    assert "nan" not in "".join(re.findall(r'<svg class="chart".*?</svg>', text, re.DOTALL))


def test_binary_tasks_alone_are_a_page(evaluated, tmp_path):
    _, predictor, stream = evaluated
    result = evaluate(predictor, stream, 8, examples=False, families=(Tasks({"malignant": (1,)}),))
    page = Page(report(tmp_path / "run", (result, predictor, stream))[0])
    assert page.row("AUROC malignant")[1] == value(evaluated[0].metrics["auroc_malignant"])
    assert not {"calibration", "coverage", "cases"} & set(page.ids)


class ThresholdRecipe(PlainRecipe):
    """Predicts a ball wherever a voxel is bright; has no opinion on the volume."""

    dimensions = 3

    def predict(self, batch, networks):
        score = networks["plain"](batch.image)[:, 0].sigmoid()
        return Prediction(pixel_probability=torch.stack([1 - score, score], 1))


class SpacedBalls(Balls):
    """With a voxel size, and the axes of a patient who lies along the first axis."""

    def encode(self, item):
        key, components = super().encode(item)
        affine = [[0.0, 0.0, 3.0, 0.0], [0.0, 1.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
        meta = {"label": None, "spacing": [2.0, 1.0, 3.0], "affine": affine if item else None}
        return key, components | {"json": json.dumps(meta).encode()}


def test_volumes_are_slices_in_three_planes_in_their_true_shape(tmp_path):
    importer = SpacedBalls(options=Options())
    source = Source(range(4), mask_classes=("background", "ball"))
    write_split(importer, "train", source, tmp_path / "train", quiet=True)
    split = open_split(tmp_path / "train")
    predictor = Predictor(ThresholdRecipe(), {"plain": nn.Identity()}, torch.device("cpu"))
    stream = Stream(split, InOrder(len(split)), (8, 8, 8), split.manifest.statistics, whole=True)
    result = evaluate(predictor, stream, 1, examples=False)
    text, _ = report(tmp_path / "run", (result, predictor, stream))
    page = Page(text)
    for words in ("sagittal, slice", "coronal, slice", "axial, slice", "This model predicts no vacuity"):
        assert words in page.text
    cards = re.findall(r'<figure class="case">.*?</figure>', text, re.DOTALL)
    assert cards
    for card in cards:
        key = re.search(r"case-\d", card)
        assert key is not None
        height, width, depth = split.read(split.keys().index(key[0])).image.shape[:3]
        planes = re.findall(r"([\w ]+), slice \d+ of (\d+)", card)
        names = ["axis 3", "axis 2", "axis 1"] if key[0] == "case-0" else ["sagittal", "coronal", "axial"]
        assert planes == list(zip(names, map(str, (depth, width, height)), strict=True))
        sizes = [
            Image.open(io.BytesIO(base64.b64decode(one))).size for one in re.findall(r"base64,([^\"]+)", card)[::3]
        ]
        shapes = [(width, 2 * height), (3 * depth, 2 * height), (3 * depth, width)]
        assert [one[0] / one[1] for one in sizes] == pytest.approx([one[0] / one[1] for one in shapes], rel=0.02)
