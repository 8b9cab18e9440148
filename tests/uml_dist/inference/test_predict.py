"""Files of predictions: masks, maps and pictures in the size of the input, a table, and failures that stop nothing."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from uml_dist import load_run, predict
from uml_dist.batch import Prediction
from uml_dist.errors import UmlError
from uml_dist.inference import PredictSettings
from uml_shards import open_split


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def values_of(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def pictures(partly_known, tmp_path_factory):
    """A folder with images of several sizes and kinds, and files that cannot be predicted."""
    folder = tmp_path_factory.mktemp("pictures")
    split = open_split(partly_known / "val")
    images = [Image.fromarray(split.read(number).image) for number in range(6)]
    images[0].save(folder / "small.png")
    images[1].resize((90, 50)).save(folder / "wide.png")
    (folder / "deep").mkdir()
    images[2].save(folder / "deep" / "small.png")
    images[3].save(folder / "small.tif")
    images[4].resize((3000, 2000)).save(folder / "huge.jpg")
    images[5].save(folder / '=1+1\n,"odd".png')
    (folder / "empty.png").touch()
    (folder / "cut.jpg").write_bytes((folder / "huge.jpg").read_bytes()[:3000])
    images[0].convert("L").save(folder / "grey.png")
    (folder / "notes.txt").write_text("x")
    return folder


@pytest.fixture(scope="module")
def predicted(small_run, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted") / "out"
    return predict(small_run, pictures, out), out


def test_every_file_has_the_size_of_its_input(predicted):
    made, out = predicted
    assert len(made.rows) == 6
    for row in made.rows:
        height, width = (int(side) for side in row["size"].split(" x "))
        for kind, dtype, most in (
            ("masks", np.uint8, 1),
            ("probabilities/lesion", np.uint16, 65535),
            ("vacuity", np.uint16, 65535),
        ):
            values = values_of(out / kind / f"{row['name']}.png")
            assert (values.shape, values.dtype) == ((height, width), dtype)
            assert values.max() <= most
        assert Image.open(out / "overlays" / f"{row['name']}.png").format == "PNG"
    assert {row["name"] for row in made.rows} >= {"small", "wide", "huge", "deep/small"}


def test_bad_files_are_listed_with_their_reason_and_stop_nothing(predicted, pictures):
    made, out = predicted
    reasons = {row["input"]: row["reason"] for row in rows_of(out / "failed.csv")}
    assert (
        reasons.keys() == {str(pictures / name) for name in ("empty.png", "cut.jpg", "grey.png")} == made.failed.keys()
    )
    assert reasons[str(pictures / "grey.png")].endswith("but run small was trained on images of 3 channels (colour)")
    assert all("\n" not in reason for reason in reasons.values())
    assert made.unused == {".txt": 1}


def test_table_has_a_row_per_case_in_the_order_of_the_input(predicted, small_run):
    made, out = predicted
    rows = rows_of(out / "table.csv")
    assert [row["name"] for row in rows] == [row["name"] for row in made.rows]
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == 6
    for row in rows:
        probabilities = [float(row[f"probability_{name}"]) for name in small_run.manifest.classes]
        assert sum(probabilities) == pytest.approx(1, abs=1e-4)
        assert row["prediction"] == small_run.manifest.classes[int(np.argmax(probabilities))]
        assert 0 < float(row["image_vacuity"]) <= 1
        assert float(row["area_px_lesion"]) == (values_of(out / "masks" / f"{row['name']}.png") == 1).sum()
    assert sum(row["input"].endswith("small.tif") for row in rows) == 1


def test_prediction_of_a_file_is_that_of_the_same_sample_in_an_evaluation(predicted, small_run, pictures):
    made, out = predicted
    stream = small_run.stream(small_run.open_split("val"))
    _, expected = next(small_run.predictor.predictions(stream, [0], 1))
    row = next(row for row in made.rows if row["input"] == str(pictures / "small.png"))
    assert row["probability_malignant"] == pytest.approx(float(expected.image_probability[0, 1]), abs=1e-5)
    vacuity = values_of(out / "vacuity" / f"{row['name']}.png") / 65535
    assert vacuity == pytest.approx(expected.pixel_vacuity[0].numpy(), abs=1e-4)
    mask = values_of(out / "masks" / f"{row['name']}.png")
    assert (mask == expected.pixel_class[0].numpy()).mean() > 0.999


def test_exported_weights_alone_predict_shards(small_run_folder, small_run, partly_known, tmp_path):
    shutil.copytree(small_run_folder, tmp_path / "weights")
    one = predict(small_run, partly_known / "val", tmp_path / "one")
    two = predict(tmp_path / "weights", [partly_known / "val"], tmp_path / "two")
    assert len(one.rows) == 12
    assert [dict(row) for row in one.rows] == [dict(row) for row in two.rows]
    assert [row["name"] for row in one.rows] == list(open_split(partly_known / "val").keys())


def test_without_a_folder_predictions_stay_in_memory(small_run, pictures):
    made = predict(small_run, [pictures / "wide.png", pictures / "empty.png"])
    assert made.failed.keys() == {str(pictures / "empty.png")}
    (case,) = made.cases
    assert case.mask.shape == case.vacuity.shape == (50, 90)
    assert case.probability == {name: made.rows[0][f"probability_{name}"] for name in ("benign", "malignant")}


def test_repeated_call_predicts_only_what_is_new_changed_or_lost(small_run, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    shutil.copytree(pictures, folder)
    first = predict(small_run, folder, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    (tmp_path / "out" / "vacuity" / "wide.png").unlink()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "small.png")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "a new one.png")
    second = predict(small_run, folder, tmp_path / "out")
    assert (len(first.rows), len(second.rows), second.earlier) == (6, 7, 4)
    again = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert {path.stem for path in again} == {"wide", "small"}
    assert len(rows_of(tmp_path / "out" / "table.csv")) == 7
    third = predict(small_run, folder, tmp_path / "out")
    assert (third.earlier, third.rows) == (7, second.rows)


def test_failure_that_has_been_removed_is_forgotten(small_run, pictures, tmp_path):
    bad = tmp_path / "in" / "a.png"
    bad.parent.mkdir()
    bad.touch()
    assert predict(small_run, bad.parent, tmp_path / "out").failed
    assert (tmp_path / "out" / "failed.csv").exists()
    shutil.copy(pictures / "wide.png", bad)
    assert not predict(small_run, bad.parent, tmp_path / "out").failed
    assert not (tmp_path / "out" / "failed.csv").exists()


def test_journal_that_a_kill_has_cut_short_is_continued(small_run, pictures, tmp_path):
    expected = predict(small_run, pictures, tmp_path / "out").rows
    journal = tmp_path / "out" / "predictions.jsonl"
    data = journal.read_bytes()
    journal.write_bytes(data[: len(data) - 40])
    made = predict(small_run, pictures, tmp_path / "out")
    assert (made.earlier, len(made.rows)) == (5, 6)
    assert {row["name"] for row in made.rows} == {row["name"] for row in expected}
    assert all(json.loads(line) for line in journal.read_text().splitlines()[:-2])
    assert predict(small_run, pictures, tmp_path / "out").earlier == 6


def test_folder_of_other_predictions_or_files_is_refused(small_run, small_run_folder, pictures, tmp_path):
    out = tmp_path / "out"
    predict(small_run, pictures / "wide.png", out)
    with pytest.raises(UmlError, match=r"has predictions of other settings \(flips: False, not True\): name another"):
        predict(small_run, pictures / "wide.png", out, PredictSettings(flips=True))
    windows = load_run(small_run_folder, device="cpu", settings=["windows.use=always"])
    with pytest.raises(UmlError, match="has predictions of other settings"):
        predict(windows, pictures / "wide.png", out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(UmlError, match="full has other files than predictions"):
        predict(small_run, pictures / "wide.png", tmp_path / "full")


def test_chosen_kinds_of_files_only(small_run, pictures, tmp_path):
    predict(small_run, pictures / "wide.png", tmp_path / "out", PredictSettings(outputs=("masks",)))
    assert {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")} == {
        "masks", "predictions.jsonl", "table.csv",
    }  # fmt: skip
    with pytest.raises(UmlError, match="'mask' is not an output: use masks, prob"):
        PredictSettings(outputs=("mask",))


def test_windows_predict_a_large_image_in_its_own_size(small_run_folder, pictures, tmp_path):
    run = load_run(small_run_folder, device="cpu", settings=["windows.use=always"])
    made = predict(run, pictures / "wide.png", settings=PredictSettings(prepare={"size": "0"}))
    assert made.cases[0].prediction.pixel_probability.shape == (1, 2, 50, 90)


def test_flips_are_the_mean_over_the_flipped_images(small_run, pictures):
    plain = predict(small_run, pictures / "small.png").cases[0]
    flipped = predict(small_run, pictures / "small.png", settings=PredictSettings(flips=True)).cases[0]
    sums = torch.zeros(32, 32)
    images = np.asarray(Image.open(pictures / "small.png"))
    for axes in ((), (0,), (1,), (0, 1)):
        found = small_run.predict_images([np.flip(images, axes).copy()])
        sums += found.pixel_vacuity[0].flip(axes)
    assert flipped.vacuity == pytest.approx((sums / 4).numpy(), abs=1e-6)
    assert not np.allclose(plain.vacuity, flipped.vacuity)


def test_lesions_that_overlap_have_a_mask_each(small_run, pictures, tmp_path, monkeypatch):
    """The recipe's outputs are replaced: lesions need no network here."""
    from uml_dist.inference import engine
    from uml_dist.inference.case import Classes

    def lesions(self, batch):
        left = torch.zeros(len(batch), 2, 32, 32)
        left[:, 0, :, :20], left[:, 1, :, 12:] = 0.9, 0.8
        grades = torch.tensor([[0.25, 0.75]]).repeat(len(batch), 1)
        return Prediction(image_probability=grades, lesion_probability=left, maps={"attention/1": left[:, 0]})

    monkeypatch.setattr(type(small_run), "predict", lesions)
    names = Classes(("mild", "severe"), (), ("exudate", "bleeding"))
    monkeypatch.setattr(engine.Classes, "of", lambda _: names)
    made = predict(small_run, pictures / "small.png", tmp_path / "out")
    row = made.rows[0]
    assert (row["prediction"], row["area_px_exudate"], row["area_px_bleeding"]) == ("severe", 640, 640)
    mask = values_of(tmp_path / "out" / "masks" / "exudate" / "small.png")
    assert set(np.unique(mask)) == {0, 255}
    assert (mask == 255).sum() == 640
    assert len(list((tmp_path / "out" / "maps").rglob("*.png"))) == 1
    assert row["image_entropy"] == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), abs=1e-6)
