"""Names of classes of a folder whose labels and masks are not known, or not all."""

import numpy as np
import pytest
from PIL import Image

from uml_shards.importers import Options, find_importer


@pytest.fixture
def raw(tmp_path):
    """Pictures without masks and labels."""
    (tmp_path / "images").mkdir()
    for name in "abc":
        Image.fromarray(np.full((8, 8, 3), ord(name), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def source_of(raw, **given):
    made = find_importer("folder")(raw, Options(settings={"val": "0", "test": "0", **given}))
    return made.splits()["train"]


def test_given_names_hold_where_nothing_is_known(raw):
    source = source_of(raw, classes="benign,malignant", mask_classes="background,vessel")
    assert (source.classes, source.mask_classes) == (("benign", "malignant"), ("background", "vessel"))
    assert source_of(raw, mask_classes="background,lesion").mask_classes == ("background", "lesion")


def test_no_names_are_stated_where_none_are_given_or_found(raw):
    source = source_of(raw)
    assert (source.classes, source.mask_classes, source.tasks) == ((), (), {})
