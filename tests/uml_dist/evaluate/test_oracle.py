"""The perfect model of generated data: its figures by hand, in every size, and data that have none."""

import shutil

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from broken_shards import restate_digests
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.evaluate import Oracle, evaluate
from uml_dist.recipes import recipe_class
from uml_dist.run.data import evaluation_stream
from uml_shards.format.picture import decode_grey
from uml_shards.format.volume import decode_volume_truth
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.importers.phantom3d import Phantom3d
from uml_shards.importers.phantom_fundus import PhantomFundus
from uml_shards.read.split import open_split
from uml_shards.write.writer import write_split

SIDE = 32


def write(importer, folder):
    write_split(importer, "val", importer.splits()["val"], folder / "val", samples_per_shard=10, quiet=True)
    return open_split(folder / "val")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    importer = PhantomImporter(options=Options(size=SIDE, counts={"val": 30}))
    return write(importer, tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return write(Phantom3d(options=Options(size=20, counts={"val": 3})), tmp_path_factory.mktemp("oracle3d"))


def evaluated(split, recipe="uml", size=(SIDE, SIDE), **settings):
    """Return the evaluation of the perfect model, as `evaluate.py` would make it."""
    names = ("train",) if recipe == "uml" else ("labelled", "unlabelled")
    tree = {
        "recipe": recipe,
        "streams": {name: {"shards": str(split.path.parent), "count": 2} for name in names},
        "data": {"size": list(size) if len(size) == 3 else size[0], **settings.pop("data", {})},
        "train": {"steps": 1},
        **settings,
    }
    config = validate(tree, "test")
    kind = recipe_class(recipe)
    oracle = Oracle.of(kind(config, dict.fromkeys(names, split.manifest)), split)
    stream = evaluation_stream(config, split, size, split.manifest.statistics)
    return evaluate(oracle, stream, 8, empty=config.train.empty_masks)


def truths(split, extension, decode):
    """Return the stored probabilities of the foreground, in [0, 1], and the masks."""
    stored = [decode(split.components(number)[1][extension]) / 255 for number in range(len(split))]
    return stored, [split.read(number).mask for number in range(len(split))]


def dice_by_hand(stored, masks):
    found = []
    for truth, mask in zip(stored, masks, strict=True):
        lesion, drawn = truth > 0.5, mask == 1
        sizes = lesion.sum() + drawn.sum()
        found.append(2 * (lesion & drawn).sum() / sizes if sizes else 1.0)
    return np.mean(found)


def test_figures_of_images_are_those_of_the_stored_probabilities(images):
    result = evaluated(images)
    samples = [images.read(number) for number in range(len(images))]
    labels = [sample.label for sample in samples]
    malignant = [sample.meta["class_probability"][1] for sample in samples]
    stored, masks = truths(images, "truth.png", lambda data: decode_grey(data, "truth.png"))
    by_hand = {
        "auroc": roc_auc_score(labels, malignant),
        "image_nll": log_loss(labels, malignant),
        "image_brier": 2 * brier_score_loss(labels, malignant),
        "dice": dice_by_hand(stored, masks),
        "pixel_brier": 2 * brier_score_loss(np.ravel(masks), np.ravel(stored)),
    }
    assert {name: result.metrics[name] for name in by_hand} == pytest.approx(by_hand, abs=1e-6)
    assert 0.5 < by_hand["dice"] < 1
    assert not [name for name in result.metrics if "vacuity" in name]
    assert result.notes["ceiling"].startswith("predictions are the true probabilities")


def test_figures_of_resized_images_are_those_of_the_pixels_that_a_resized_mask_shows(images):
    stored, masks = truths(images, "truth.png", lambda data: decode_grey(data, "truth.png"))
    half = [[values[1::2, 1::2] for values in arrays] for arrays in (stored, masks)]
    assert evaluated(images, size=(SIDE // 2, SIDE // 2)).metrics["dice"] == pytest.approx(
        dice_by_hand(*half), abs=1e-6
    )


def test_figures_of_volumes_are_those_of_the_stored_probabilities(volumes):
    result = evaluated(volumes, "ugmcl", (16, 16, 16))
    assert result.metrics["dice"] == pytest.approx(
        dice_by_hand(*truths(volumes, "truth.npy", decode_volume_truth)), abs=1e-6
    )
    assert "auroc" not in result.metrics


def test_predicted_classes_are_chosen_as_the_configuration_states(images):
    result = evaluated(images, evaluation={"largest_component": True})
    assert result.notes["classes"] == "the largest component of each"
    assert result.metrics["pixel_brier"] == pytest.approx(evaluated(images).metrics["pixel_brier"])


def test_a_skipped_sample_counts_in_no_figure(images, tmp_path):
    copy = shutil.copytree(images.path, tmp_path / "val")
    tar = copy / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    image = data.find(b"\xff\xd8\xff")
    data[image : image + 64] = bytes(64)
    tar.write_bytes(data)
    restate_digests(copy)
    result = evaluated(open_split(copy), data={"on_bad_sample": "skip"})
    assert len(result.cases) == len(images) - 1
    assert np.isfinite(result.metrics["dice"])


def test_data_without_true_probabilities_are_refused_in_one_line(images, tmp_path):
    fundus = write(PhantomFundus(options=Options(size=48, counts={"val": 2})), tmp_path)
    with pytest.raises(UmlError, match="does not store the true probabilities of its masks and classes") as raised:
        Oracle.of(None, fundus)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    named = images.manifest.model_copy(update={"classes": ("a", "b", "c"), "class_counts": (0, 0, 0)})
    images_of_three = open_split(images.path)
    images_of_three.manifest = named
    with pytest.raises(UmlError, match="true probabilities of its classes: there is a ceiling of generated data only"):
        Oracle.of(None, images_of_three)  # type: ignore[arg-type]
