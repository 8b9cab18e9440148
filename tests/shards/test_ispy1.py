"""The importer of I-SPY 1, on made-up volumes."""

import numpy as np
import pytest

from layouts import ISPY1_SHAPE, ispy1_mask, save_volume, write_ispy1
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, find_importer
from uml_shards.importers.ispy1 import choose_slices
from uml_shards.picture import decode_image, decode_mask
from uml_shards.writer import write_split

Ispy1 = find_importer("ispy1")


def test_patients_are_drawn_into_splits_in_the_shares_of_each_class(tmp_path):
    sources = Ispy1(write_ispy1(tmp_path), Options(seed=3)).splits()
    patients = {split: {(item.patient, item.label) for item in source.items} for split, source in sources.items()}
    assert [len(patients[split]) for split in ("train", "val", "test")] == [16, 2, 2]
    assert len({patient for found in patients.values() for patient, _ in found}) == 20
    assert sum(label for _, label in patients["train"]) == 4
    assert sources == Ispy1(tmp_path, Options(seed=3)).splits()
    assert sources != Ispy1(tmp_path, Options(seed=4)).splits()


def test_slices_around_the_largest_tumour_never_from_the_far_end():
    sizes = np.asarray([3, 9, 4, 0, 1, 0, 0, 2])
    assert choose_slices(sizes, 3) == [0, 1, 2]
    assert choose_slices(sizes, 4) == [0, 1, 2, 4]
    assert choose_slices(sizes, 10) == [0, 1, 2, 4, 7]
    assert choose_slices(np.zeros(4, np.int64), 3) == []


def test_intensities_are_windowed_by_the_volume_and_masks_turned_alike(tmp_path):
    importer = Ispy1(write_ispy1(tmp_path, 1), Options(size=0, lossless=True))
    items = {item.slice: item for item in importer.splits()["train"].items}
    assert sorted(items) == [1, 2, 3, 4]
    key, components = importer.encode(items[2])
    assert key == "ispy1-1001-002"
    image, mask = decode_image(components["png"], "png"), decode_mask(components["mask.png"], 2)
    low, high = np.percentile(np.linspace(0, 700, ISPY1_SHAPE[2]).repeat(120), [0.5, 99.5])
    assert image.shape == (10, 12, 1)
    assert (image == round((200 - low) / (high - low) * 255)).all()
    assert mask.sum() == 8
    assert (mask[3, 2:9] == 1).all()  # (x, y) of the volume has become row y, column x


def test_a_split_is_written_and_read(tmp_path):
    importer = Ispy1(write_ispy1(tmp_path / "raw", 10), Options(size=16))
    manifest = write_split(importer, "train", importer.splits()["train"], tmp_path / "train", quiet=True)
    assert (manifest.channels, manifest.size, manifest.masked) == (1, (16, 16), manifest.samples)
    sample = open_split(tmp_path / "train").read(0)
    assert sample.meta["patient"] in sample.key


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: ispy1_mask(raw, 1002).unlink(), "patient 1002 is missing"),
        (lambda raw: save_volume(ispy1_mask(raw, 1002), np.zeros((12, 10, 7))), "must have the same shape"),
        (lambda raw: save_volume(ispy1_mask(raw, 1002), np.zeros(ISPY1_SHAPE)), "marks no tumour"),
        (lambda raw: save_volume(ispy1_mask(raw, 1002), np.full(ISPY1_SHAPE, np.nan)), "960 values that are NaN"),
        (lambda raw: ispy1_mask(raw, 1002).write_bytes(b"cut"), "cannot be opened"),
        (lambda raw: save_volume(ispy1_mask(raw, 1002), np.zeros((*ISPY1_SHAPE, 2))), "has 4 dimensions"),
        (
            lambda raw: (raw / "outcome_new.csv").write_text("SUBJECTID,PCR\n1001,yes\n"),
            "row 2: patient '1001' with PCR 'yes': must be 0 or 1, or empty",
        ),
        (
            lambda raw: (raw / "outcome_new.csv").write_text("SUBJECTID,PCR\n1001,0\n1001,1\n"),
            "row 3: patient '1001' comes twice",
        ),
        (
            lambda raw: (raw / "outcome_new.csv").write_text("SUBJECTID,PCR\n../1001,0\n"),
            r"row 2: patient '\.\./1001': SUBJECTID must be letters and digits",
        ),
        (lambda raw: (raw / "outcome_new.csv").write_text("id,PCR\n1001,1\n"), "needs the columns SUBJECTID and PCR"),
        (lambda raw: (raw / "outcome_new.csv").unlink(), "holds neither outcome_new.csv nor"),
    ],
)
def test_a_tree_that_does_not_fit_is_one_line(tmp_path, spoil, message):
    raw = write_ispy1(tmp_path, 3)
    spoil(raw)
    with pytest.raises(ShardError, match=message) as error:
        Ispy1(raw).splits()
    assert "\n" not in str(error.value)


def test_data_cut_in_the_middle_and_a_constant_volume_are_refused(tmp_path):
    raw = write_ispy1(tmp_path, 2)
    importer = Ispy1(raw)
    items = importer.splits()["train"].items
    first, other = items[0], next(item for item in items if item.patient != items[0].patient)
    whole = first.image.read_bytes()
    first.image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"DCEMRI_1\.nii cannot be read"):
        importer.encode(first)
    save_volume(other.image, np.ones(ISPY1_SHAPE))
    with pytest.raises(ShardError, match=r"percentiles 0\.5 and 99\.5 are the same"):
        importer.encode(other)
