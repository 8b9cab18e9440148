"""Tests of cases of which few have masks, from raw files to the two streams."""

import numpy as np
import pytest

from uml_shards import open_split
from uml_shards.importers import Options, find_importer
from uml_shards.read.part import part_of
from uml_shards.read.samples import Samples
from uml_shards.write.writer import write_split
from volume_writers import anatomy, save_nifti

Folder = find_importer("folder")


def write_cases(raw, cases: int = 24, masks: int = 6) -> None:
    """Write cases of which the first ones have a mask of three classes."""
    for number in range(cases):
        save_nifti(raw / "images" / f"case{number:02d}.nii.gz", anatomy() + number)
        if number < masks:
            save_nifti(raw / "masks" / f"case{number:02d}.nii.gz", (anatomy() % 3).astype(np.uint8))


def importer(raw, seed: int = 0, **given: str):
    settings = {"keys": "names", "mask_values": "classes", "mask_classes": "background,liver,tumour", **given}
    return Folder(raw, Options(seed=seed, settings=settings))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cases_without_masks_are_for_training(tmp_path, seed):
    write_cases(tmp_path)
    made = importer(tmp_path, seed, val="0.3", test="0.3")
    keys = {split: {item.key for item in source.items} for split, source in made.splits().items()}
    masked = {f"case{number:02d}" for number in range(6)}
    assert keys["val"] | keys["test"] <= masked
    assert sum(map(len, keys.values())) == 24
    assert made.take_notes() == {"samples of patients without any label or mask, all in train": 18}


def test_patients_with_one_known_image_are_drawn_as_a_whole(tmp_path):
    write_cases(tmp_path)
    rows = "".join(f"case{number:02d},p{number % 8}\n" for number in range(24))
    (tmp_path / "labels.csv").write_text(f"image,patient\n{rows}")
    splits = importer(tmp_path, val="0.4", test="0").splits()
    in_val = {item.key for item in splits["val"].items}
    assert in_val
    for number in range(8):
        same = {f"case{number + 8 * step:02d}" for step in range(3)}
        assert same <= in_val or not same & in_val
    assert not in_val & {"case06", "case14", "case22"}


def test_cases_are_drawn_if_none_has_a_mask(tmp_path):
    write_cases(tmp_path, masks=0)
    made = importer(tmp_path, val="0.4", test="0.3")
    assert made.splits().keys() == {"train", "val", "test"}
    assert not made.take_notes()


def test_both_streams_read_the_same_shards(tmp_path):
    write_cases(tmp_path / "raw")
    made = importer(tmp_path / "raw", val="0", test="0")
    write_split(made, "train", made.splits()["train"], tmp_path / "train", quiet=True)
    whole = Samples([open_split(tmp_path / "train")])
    labelled, unlabelled = part_of(whole, "labelled"), part_of(whole, "unlabelled")
    assert (len(labelled), len(unlabelled)) == (6, 18)
    assert set(labelled.keys()).isdisjoint(unlabelled.keys())
    assert {int(value) for number in range(6) for value in np.unique(labelled.read(number).mask)} == {0, 1, 2}
    assert all(unlabelled.read(number).mask is None for number in range(18))
