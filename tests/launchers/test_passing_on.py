"""A run folder alone, or exported weights alone, are enough to predict."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import command_of, leave_world, load_script
from partial import make_partial
from runs import train, uml_tree
from uml_dist import load_run
from uml_dist.config.loading import read_config
from uml_dist.errors import UmlError
from uml_dist.run.checkpoint import read_state, sha256_of
from uml_dist.run.export import export
from uml_shards import open_split
from worlds import run_world

SCRIPT = Path(__file__).parents[2] / "launchers" / "evaluate.py"
SPECIMEN = Path(__file__).parents[1] / "specimens" / "0.1.0"

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, beside the shards that it was trained on."""
    folder = tmp_path_factory.mktemp("passing-on")
    make_partial(folder / "data", "labels masks")
    run_world(1, train, uml_tree(folder / "data", train__steps=2), str(folder / "run"), True)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of that folder that a test may change, without the shards; the run looks for them in `absent`."""
    shutil.copytree(trained, tmp_path / "copy")
    config = tmp_path / "copy" / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(trained / "data"), str(tmp_path / "absent")))
    return tmp_path / "copy"


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Return a function that runs evaluate.py in this process and returns exit code, stdout and stderr."""
    leave_world(monkeypatch)
    return command_of(load_script(SCRIPT), monkeypatch, capsys)


def images_of(folder):
    split = open_split(folder / "data" / "val")
    return [split.read(number).image for number in range(4)]


def predicted(run):
    """The predictions of the first four images of the validation split, read from its shards."""
    stream = run.stream(run.open_split("val"))
    _, prediction = next(run.predictor.predictions(stream, range(4), 4))
    return prediction


def assert_equal(one, other):
    assert torch.equal(one.image_probability, other.image_probability)
    assert torch.equal(one.pixel_probability, other.pixel_probability)
    assert torch.equal(one.pixel_vacuity, other.pixel_vacuity)


def test_run_whose_shards_are_gone_predicts_as_before(trained, folder):
    expected = predicted(load_run(trained / "run", device="cpu"))
    run = load_run(folder / "run", device="cpu")
    assert run.manifest.classes == ("benign", "malignant")
    assert_equal(run.predict_images(images_of(trained)), expected)
    with pytest.raises(UmlError, match=r"the shards of run .*absent contains no split: if they have moved, .*--shards"):
        run.open_split("val")
    assert_equal(predicted(load_run(folder / "run", device="cpu", shards=folder / "data")), expected)


def test_exported_weights_alone_predict_as_the_run_did(trained, folder, monkeypatch):
    expected = predicted(load_run(trained / "run", device="cpu"))
    export(folder / "run", folder / "out" / "weights")
    monkeypatch.chdir(folder / "out")
    run = load_run("weights", device="cpu")
    assert_equal(run.predict_images(images_of(trained)), expected)
    state = json.loads((folder / "out" / "weights" / "state.json").read_text())
    manifest = open_split(trained / "data" / "train").manifest
    stored = state["manifests"]["train"]
    assert stored["statistics"] == manifest.statistics.model_dump(mode="json")
    assert (stored["classes"], stored["mask_classes"]) == (["benign", "malignant"], ["background", "lesion"])
    assert (stored["size"], stored["channels"]) == ([32, 32], 3)


def test_model_card_states_the_inputs_and_code_that_predicts(trained, folder, monkeypatch):
    export(folder / "run", folder / "weights")
    card = (folder / "weights" / "README.md").read_text()
    manifest = open_split(trained / "data" / "train").manifest
    assert f"| mean | {', '.join(map(str, manifest.statistics.mean))} |" in card
    assert f"| standard deviation | {', '.join(map(str, manifest.statistics.std))} |" in card
    assert "| image classes | benign, malignant |" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(list(filter(None, code.splitlines()))) == 3
    monkeypatch.chdir(folder)
    image = images_of(trained)[0]
    Image.fromarray(image).save("picture.png")
    names = {}
    exec(code.replace("FOLDER", "weights"), names)
    expected = load_run("weights", device="cpu").predict_images([image])
    assert torch.allclose(names["prediction"].image_probability.cpu(), expected.image_probability, atol=1e-5)


def test_images_of_any_size_are_resized_as_in_training(trained):
    run = load_run(trained / "run", device="cpu")
    large = np.repeat(np.repeat(images_of(trained)[0], 2, 0), 3, 1)
    prediction = run.predict_images([large, images_of(trained)[1]])
    assert prediction.pixel_probability.shape == (2, 2, 32, 32)


def test_images_are_predicted_in_their_own_size_by_windows(trained):
    run = load_run(trained / "run", device="cpu", settings=["windows.use=always", "windows.batch=1"])
    images = [np.ascontiguousarray(np.tile(image, (2, 2, 1))[:37, :50]) for image in images_of(trained)[:2]]
    prediction = run.predict_images(images)
    assert prediction.pixel_probability.shape == (2, 2, 37, 50)
    torch.testing.assert_close(prediction.pixel_probability.sum(1), torch.ones(2, 37, 50))
    assert prediction.pixel_vacuity.shape == prediction.maps["reliable mask"].shape == (2, 37, 50)
    corner = load_run(trained / "run", device="cpu").predict_images([image[:32, :32] for image in images[:1]])
    found = prediction.pixel_probability[0, :, :5, :16]  # only the first window is there
    torch.testing.assert_close(found, corner.pixel_probability[0, :, :5, :16])
    with pytest.raises(UmlError, match="the images differ in shape: predict them one by one"):
        run.predict_images([images[0], images[1][:-1]])


def test_only_settings_of_the_evaluation_can_be_changed(trained):
    with pytest.raises(
        UmlError, match=r"train.steps=9' would change the trained run: set windows.KEY or evaluation.KEY"
    ):
        load_run(trained / "run", device="cpu", settings=["train.steps=9"])
    with pytest.raises(UmlError, match=r"unknown key windows.batches: did you mean windows.batch\?"):
        load_run(trained / "run", device="cpu", settings=["windows.batches=9"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "got no image"),
        ([np.zeros((8, 8), np.uint8)], r"image 0 has the shape \(8, 8\): the run needs \(H, W, 3\)"),
        ([np.zeros((8, 8, 4), np.uint8)], r"image 0 has the shape \(8, 8, 4\)"),
        ([np.zeros((8, 8, 3))], "image 0 has the type float64: the run needs uint8 or uint16"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(trained, images, message):
    with pytest.raises(UmlError, match=message):
        load_run(trained / "run", device="cpu").predict_images(images)


def test_another_data_set_without_any_truth_is_evaluated_beside_the_own_one(folder, evaluate):
    export(folder / "run", folder / "weights")
    make_partial(folder / "hospital", split="test")
    code, printed, error = evaluate("--run", folder / "weights", "--shards", folder / "hospital", "--split", "test")
    assert (code, error) == (0, "")
    assert f"{folder / 'hospital'} is not the data set of the training\n" in printed
    results = folder / "weights" / "evaluation" / "hospital-test"
    assert {path.name for path in results.iterdir()} == {"metrics.json", "cases.csv", "sheet.png"}
    record = json.loads((results / "metrics.json").read_text())
    assert (record["shards"], record["metrics"]) == ("hospital", {})
    code, printed, error = evaluate("--run", folder / "weights", "--shards", folder / "data")
    assert (code, error) == (0, "")
    assert "is not the data set" not in printed
    assert (folder / "weights" / "evaluation" / "val" / "metrics.json").is_file()


def test_wrong_name_of_a_checkpoint_of_exported_weights_is_refused(folder):
    export(folder / "run", folder / "weights")
    with pytest.raises(UmlError, match=r"weights is one checkpoint, not a run folder: leave out the name 'latest'"):
        load_run(folder / "weights", "latest")
    with pytest.raises(UmlError, match=r"contains no run"):
        load_run(folder)


def test_damaged_description_of_the_inputs_is_one_line(folder):
    export(folder / "run", folder / "weights")
    path = folder / "weights" / "state.json"
    state = json.loads(path.read_text())
    state["manifests"]["train"]["channels"] = "many"
    path.write_text(json.dumps(state))
    digests = json.loads((folder / "weights" / "MANIFEST.json").read_text())
    (folder / "weights" / "MANIFEST.json").write_text(json.dumps(digests | {"state.json": sha256_of(path)}))
    with pytest.raises(UmlError, match=r"weights has no readable state\.json: use another checkpoint"):
        load_run(folder / "weights")


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A run of version 0.1.0, whose checkpoint does not state the inputs; it is the current folder."""
    shutil.copytree(SPECIMEN, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_earlier_run_without_its_shards_is_refused_with_the_remedy(old):
    assert load_run("run", "latest", "cpu").state.manifests == {}
    shutil.move("shards", "moved")
    with pytest.raises(UmlError, match=r"whose checkpoint states no classes and statistics: .*--shards") as raised:
        load_run("run", "latest", "cpu")
    assert "\n" not in str(raised.value)
    assert load_run("run", "latest", "cpu", shards="moved").open_split("val").manifest.samples == 4


def test_export_of_an_earlier_run_states_the_inputs_if_the_shards_are_there(old, tmp_path):
    export(Path("run"), tmp_path / "with", "latest")
    shutil.move("shards", "moved")
    export(Path("run"), tmp_path / "without", "latest")
    assert load_run(tmp_path / "with", device="cpu").manifest.classes
    assert "Not stated: the checkpoint is of an earlier version" in (tmp_path / "without" / "README.md").read_text()
    with pytest.raises(UmlError, match="states no classes and statistics"):
        load_run(tmp_path / "without", device="cpu")


def test_earlier_run_that_resumes_states_its_inputs(old):
    tree = read_config(Path("run/config.toml")).model_dump(mode="json", exclude_none=True)
    run_world(1, train, tree, "run")
    assert read_state(Path("run/checkpoints/step-000004")).manifests["train"]["classes"]
