"""Evaluations by windows: samples in their stored size, on any number of ranks, with metrics and pictures."""

import csv

import numpy as np
import pytest

from uml_dist.config.evaluating import WindowsConfig
from uml_dist.evaluate.results import metrics_record, printed_table, write_cases
from uml_dist.evaluate.sheet import legend_of, write_sheet
from uml_shards.format.volume import encode_volume
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.split import open_split
from uml_shards.sources.encode import encode_json
from uml_shards.write.writer import write_split
from volume_recipe import Balls, make_balls
from windowed import evaluate_by_windows
from worlds import run_world

WINDOW = (8, 8, 4)


class SpacedBalls(Balls):
    """The balls with a voxel size of their own for each volume."""

    def encode(self, item):
        key, components = super().encode(item)
        return key, {**components, "json": encode_json(None, {"spacing": [0.5, 0.5, 1.0 + item]})}


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    return make_balls(tmp_path_factory.mktemp("balls")) / "val"


@pytest.fixture(scope="module")
def result(balls):
    return evaluate_by_windows(str(balls), WINDOW)


def test_volumes_of_any_size_are_evaluated_by_a_network_that_takes_multiples_of_4(balls, result):
    evaluation, shapes = result
    split = open_split(balls)
    sizes = {split.read(number).image.shape[:3] for number in range(len(split))}
    assert any(side % 4 for size in sizes for side in size)
    assert {shape[2:] for shape in shapes} == {WINDOW}
    assert max(shape[0] for shape in shapes) == WindowsConfig().batch
    pixels = {case["key"]: case["pixels"] for case in evaluation.cases}
    assert pixels == {split.read(number).key: split.read(number).mask.size for number in range(len(split))}
    assert 0.3 < evaluation.metrics["dice"] < 1
    with pytest.raises(RuntimeError, match="must match the size"):
        evaluate_by_windows(str(balls), WINDOW, use="never")


@pytest.mark.distributed
def test_two_ranks_have_the_figures_of_one(balls, result):
    (two, _), (other, _) = run_world(2, evaluate_by_windows, str(balls), WINDOW)
    one, _ = result
    assert two.metrics == other.metrics == one.metrics
    assert {"dice", "pixel_ece", "hd95", "assd", "surface_failures"} <= one.metrics.keys()
    assert two.cases.keys == one.cases.keys
    for name, values in one.cases.columns.items():
        np.testing.assert_array_equal(two.cases.columns[name], values, err_msg=name)


def test_a_result_states_how_it_was_predicted(balls, result):
    record = metrics_record(result[0])
    assert record["notes"] == {
        "windows": "8 x 8 x 4, every 4 x 4 x 2, gaussian weights, mirror border",
        "surface_distances": "in voxels",
    }
    assert "windows: 8 x 8 x 4, every 4 x 4 x 2, gaussian weights, mirror border" in printed_table(record).splitlines()
    kept, _ = evaluate_by_windows(str(balls), WINDOW, largest=True, weights="uniform")
    assert metrics_record(kept)["notes"]["classes"] == "the largest component of each"
    assert "uniform weights" in metrics_record(kept)["notes"]["windows"]


def test_the_largest_component_changes_overlap_and_surfaces_but_no_probability(balls, result):
    before, (after, _) = result[0].metrics, evaluate_by_windows(str(balls), WINDOW, largest=True)
    for name in ("pixel_nll", "pixel_ece", "pixel_error_auroc_entropy"):
        assert after.metrics[name] == before[name], name
    assert after.metrics["dice"] > before["dice"], "the noise around the balls is in small components"
    assert after.metrics["hd95"] < before["hd95"]


def test_distances_are_in_the_voxel_size_of_each_volume(tmp_path):
    importer = SpacedBalls(options=Options())
    write_split(importer, "val", importer.splits()["train"], tmp_path / "val", quiet=True)
    found, _ = evaluate_by_windows(str(tmp_path / "val"), WINDOW)
    assert found.notes["surface_distances"] == "in mm"
    write_cases(tmp_path / "cases.csv", found)
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["surface_unit"] for row in rows] == ["mm"] * 10
    assert all(float(row["hd95_ball"]) > 0 for row in rows)


def test_images_are_read_in_their_stored_size(tmp_path):
    importer = PhantomImporter(options=Options(size=20, counts={"val": 3}, lossless=True))
    write_split(importer, "val", importer.splits()["val"], tmp_path / "val", quiet=True)
    found, shapes = evaluate_by_windows(str(tmp_path / "val"), (16, 16), use="always", stride=4)
    assert {shape[2:] for shape in shapes} == {(16, 16)}
    assert found.cases.columns["pixels"].tolist() == [400] * 3
    assert [one.predicted.shape for one in found.examples] == [(20, 20)] * 3


def test_the_picture_shows_the_slice_with_the_largest_lesion_in_its_own_range_of_values(tmp_path):
    class OneSlice(Balls):
        def encode(self, item):
            image = np.random.default_rng(item).normal(1000.0, 50.0, (10, 14, 9)).astype(np.float32)
            mask = np.zeros(image.shape, dtype=np.uint8)
            mask[2:8, 3:9, 6] = mask[4, 4, 2] = 1
            image[mask == 1] += 400
            return f"case-{item}", {
                "npy": encode_volume(image),
                "mask.npy": encode_volume(mask),
                "json": encode_json(None),
            }

    importer = OneSlice(options=Options())
    write_split(importer, "val", importer.splits()["train"], tmp_path / "val", quiet=True)
    found, _ = evaluate_by_windows(str(tmp_path / "val"), WINDOW)
    (example, *_) = found.examples
    assert example.truth.sum() == 36
    assert example.image.shape == (10, 14, 3)
    inside, outside = example.image[2:8, 3:9].mean(), example.image[:, 9:].mean()
    assert outside < 0.4 < 0.8 < inside
    assert list(example.maps) == ["distance"]
    write_sheet(tmp_path / "sheet.png", found.examples, legend_of(found.manifest), "volumes")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
