"""Cases: every sample of a split once, whatever the ranks and batches, with figures that can be worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from plain_recipe import evaluate
from runs import PartlyKnown
from uml_dist.batch import Prediction
from uml_dist.errors import UmlError
from uml_dist.evaluate import Predictor, summarise
from uml_dist.evaluate import evaluate as evaluate_all
from uml_dist.evaluate.sheet import legend_of, write_sheet
from uml_dist.metrics.families import STANDARD
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.plan import InOrder
from uml_shards.read.split import open_split
from uml_shards.read.stream import Stream
from uml_shards.write.writer import write_split
from worlds import run_world

SAMPLES = 10


@pytest.fixture(scope="module")
def split_folder(tmp_path_factory):
    """10 phantoms of 16 x 16, some without label, some without mask, some without both."""
    folder = tmp_path_factory.mktemp("evaluated") / "val"
    importer = PartlyKnown(options=Options(size=16, counts={"val": SAMPLES}, lossless=True))
    write_split(importer, "val", importer.splits()["val"], folder, samples_per_shard=4, quiet=True)
    return folder


def assert_equal_cases(found, expected):
    assert [case["key"] for case in found] == [case["key"] for case in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"key"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-6, err_msg=f"{one['key']}: {name}")
    assert found.sums.keys() == expected.sums.keys()
    for name in found.sums:
        np.testing.assert_allclose(found.sums[name], expected.sums[name], rtol=1e-6, err_msg=name)


def red_of(sample, manifest):
    """The red channel as float64, normalised."""
    return (sample.image[..., 0] / 255.0 - manifest.statistics.mean[0]) / manifest.statistics.std[0]


def test_each_sample_comes_once_sorted_by_key(split_folder):
    cases, sizes = evaluate(split_folder, 3)
    assert [case["key"] for case in cases] == sorted(open_split(split_folder).keys())
    assert sizes == [3, 3, 3, 1]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 1), (100, 0)])
def test_batches_and_workers_change_nothing(split_folder, batch_size, workers):
    assert_equal_cases(evaluate(split_folder, batch_size, workers)[0], evaluate(split_folder, 3)[0])


def test_figures_are_those_of_the_formulas(split_folder):
    split = open_split(split_folder)
    by_key = {case["key"]: case for case in evaluate(split_folder, 4)[0]}
    masked = labelled = 0
    for number in range(len(split)):
        sample = split.read(number)
        case, red = by_key[sample.key], red_of(sample, split.manifest)
        probability = 1 / (1 + math.exp(-red.mean()))
        assert case["probability_1"] == pytest.approx(probability, rel=1e-4)
        assert case["probability_0"] == pytest.approx(1 - probability, rel=1e-4)
        assert case["image_vacuity"] == pytest.approx(probability, rel=1e-4)
        assert case["pixel_vacuity"] == pytest.approx((1 / (1 + np.exp(-red))).mean(), rel=1e-4)
        assert (case["area_0"], case["area_1"]) == pytest.approx(((red <= 0).mean(), (red > 0).mean()))
        if sample.label is None:
            assert case["label"] == -1
            assert math.isnan(case["image_nll"])
        else:
            labelled += 1
            assert case["label"] == sample.label
            nll = -math.log(probability if sample.label else 1 - probability)
            assert case["image_nll"] == pytest.approx(nll, rel=1e-4)
        if sample.mask is None:
            assert case["pixels"] == 0
            assert math.isnan(case["pixel_nll"])
            assert not any(case[f"{what}_{k}"] for what in ("true", "predicted", "intersection") for k in (0, 1))
        else:
            masked += 1
            assert case["pixels"] == 256
            # -ln sigmoid(z) = ln(1 + e^-z), and with -z for the background.
            nll = np.log1p(np.exp(np.where(sample.mask == 1, -red, red))).mean()
            assert case["pixel_nll"] == pytest.approx(nll, rel=1e-4)
            for k, predicted in ((0, red <= 0), (1, red > 0)):
                assert case[f"true_{k}"] == (sample.mask == k).sum()
                assert case[f"predicted_{k}"] == predicted.sum()
                assert case[f"intersection_{k}"] == (predicted & (sample.mask == k)).sum()
    assert 0 < masked < SAMPLES
    assert 0 < labelled < SAMPLES


def test_a_recipe_without_a_task_leaves_its_figures_out(split_folder):
    always = {"key", "label", "position"}
    only_images = evaluate(split_folder, 4, says_pixels=False)[0]
    assert not only_images.sums
    assert set(only_images[0]) == {*always, "probability_0", "probability_1", "image_nll", "image_vacuity"}
    only_pixels = evaluate(split_folder, 4, says_images=False)[0]
    areas = {f"{what}_{k}" for what in ("true", "predicted", "intersection", "area") for k in (0, 1)}
    sums = {"pixel_calibration", "border_calibration", "vacuity_histogram", "entropy_histogram"}
    maps = {f"map_{kind}_{how}" for kind in ("vacuity", "entropy") for how in ("mean", "above", "border")}
    pixels = {"pixels", "pixel_nll", "pixel_brier", "pixel_vacuity"}
    assert set(only_pixels[0]) == {*always, *pixels, *areas, *maps}
    assert set(only_pixels.sums) == sums


def test_positions_lead_back_to_the_samples(split_folder):
    split = open_split(split_folder)
    assert all(split.read(case["position"]).key == case["key"] for case in evaluate(split_folder, 4)[0])


class Overlapping(PhantomImporter):
    """The phantom with a lesion and a rim that may overlap."""

    def splits(self):
        sources = super().splits()
        return {name: replace(one, mask_classes=(), mask_names=("lesion", "rim")) for name, one in sources.items()}

    def encode(self, item):
        key, components = super().encode(item)
        mask = components.pop("mask.png")
        return key, {**components, "mask.lesion.png": mask, "mask.rim.png": mask}


def test_overlapping_masks_are_refused_in_one_line_unless_no_pixels_are_predicted(tmp_path):
    importer = Overlapping(options=Options(size=16, counts={"val": 3}, lossless=True))
    write_split(importer, "val", importer.splits()["val"], tmp_path / "val", quiet=True)
    with pytest.raises(UmlError, match=r"the masks of .*val overlap"):
        evaluate(str(tmp_path / "val"), 4)
    assert len(evaluate(str(tmp_path / "val"), 4, says_pixels=False)[0]) == 3


class Redness:
    """Predicts both lesions where an image is red; a recipe as far as an evaluation is concerned."""

    families = STANDARD

    def predict(self, batch, networks):
        red = batch.image[:, 0].sigmoid()
        return Prediction(lesion_probability=torch.stack([red, 0.9 * red], 1), maps={"redness": red})


def test_overlapping_lesions_are_evaluated_and_drawn(tmp_path):
    importer = Overlapping(options=Options(size=16, counts={"val": 6}, lossless=True))
    write_split(importer, "val", importer.splits()["val"], tmp_path / "val", quiet=True)
    split = open_split(tmp_path / "val")
    stream = Stream(split, InOrder(len(split)), (16, 16), split.manifest.statistics)
    result = evaluate_all(Predictor(Redness(), {}, torch.device("cpu")), stream, 4, draws=50)
    assert {"loss", "lesion_nll", "dice", "dice_lesion", "dice_rim", "iou_rim"} <= result.metrics.keys()
    dices = []
    for number in range(len(split)):
        sample = split.read(number)
        predicted = red_of(sample, split.manifest) >= 0
        dices.append(2 * (predicted & (sample.mask[0] == 1)).sum() / (predicted.sum() + (sample.mask[0] == 1).sum()))
    assert result.metrics["dice_lesion"] == pytest.approx(np.mean(dices))
    assert [set(np.unique(example.predicted)) <= {0, 1, 2} for example in result.examples] == [True] * 6
    write_sheet(tmp_path / "sheet.png", result.examples, legend_of(split.manifest), "lesions")
    assert legend_of(split.manifest) == ("background", "lesion", "rim")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


@pytest.mark.distributed
def test_three_ranks_see_each_of_ten_samples_once_and_agree_with_one(split_folder):
    alone, _ = evaluate(split_folder, 3, draws=20)
    answers = run_world(3, evaluate, str(split_folder), 3, 0, 20)
    manifest = open_split(split_folder).manifest
    cases = answers[0][0]
    assert_equal_cases(cases, alone)
    assert summarise(cases, manifest) == pytest.approx(summarise(alone, manifest), rel=1e-6)
    assert [len(others) for others, _ in answers[1:]] == [0, 0], "cases are on rank 0 only"
    assert [sizes for _, sizes in answers] == [[3, 1], [3, 1], [2]]


@pytest.mark.distributed
def test_a_split_of_fewer_samples_than_ranks_still_agrees(tmp_path):
    importer = PartlyKnown(options=Options(size=16, counts={"val": 2}, lossless=True))
    write_split(importer, "val", importer.splits()["val"], tmp_path / "val", quiet=True)
    alone, _ = evaluate(str(tmp_path / "val"), 3)
    assert len(alone) == 2
    (cases, first), (_, second), (_, third) = run_world(3, evaluate, str(tmp_path / "val"), 3)
    assert_equal_cases(cases, alone)
    assert (first, second, third) == ([1], [1], [])
