"""The models that come with the package predict without shards, and are small."""

import re

import pytest
import torch

from uml_dist import load_run
from uml_dist.errors import UmlError
from uml_dist.models import SHIPPED, shipped
from uml_dist.run.checkpoint import verify
from uml_shards.importers.phantom_pictures import draw

MOST_BYTES = 5_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_model_is_complete_and_small(name):
    folder = shipped(name)
    verify(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES


def test_phantom_finds_the_lesions_of_images_it_was_not_trained_on():
    run = load_run(shipped("phantom"), device="cpu")
    assert (run.manifest.classes, run.manifest.mask_classes) == (("benign", "malignant"), ("background", "lesion"))
    drawn = [draw(1, "elsewhere", number, 96) for number in range(16)]
    prediction = run.predict_images([one.image for one in drawn])
    mask = torch.stack([torch.as_tensor(one.mask) for one in drawn]) == 1
    found = prediction.pixel_class == 1
    assert 2 * (mask & found).sum() / (mask.sum() + found.sum()) > 0.85


def test_the_card_states_figures_of_a_split_that_chose_nothing():
    card = (shipped("phantom") / "README.md").read_text()
    assert re.search(r"^\| internal testing \| phantom, test \| nothing was chosen by it \|$", card, re.MULTILINE)
    assert float(re.search(r"^\| dice \| (\S+) \|", card, re.MULTILINE)[1]) > 0.9


def test_unknown_model_is_refused_with_the_names_there_are():
    with pytest.raises(UmlError, match="no model 'lung' comes with the package: there is phantom"):
        shipped("lung")
