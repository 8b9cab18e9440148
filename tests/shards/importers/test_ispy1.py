"""Tests of the I-SPY 1 importer, on synthetic volumes."""

import math

import numpy as np
import pytest

from layouts import ISPY1_SHAPE, ispy1_mask, save_volume, write_deep_ispy1, write_ispy1
from uml_shards import ShardError, open_split
from uml_shards.format.picture import decode_image, decode_mask
from uml_shards.importers import Options, find_importer
from uml_shards.importers.ispy1 import choose_slices, choose_upward
from uml_shards.importers.ispy1_table import order_splits
from uml_shards.write.writer import write_split

Ispy1 = find_importer("ispy1")
RELEASE = {"split": "table", "slice_rule": "upward", "scale": "slice"}
"""Settings that prepare the data like UML's authors."""


def test_patients_are_split_in_the_same_proportions_in_each_class(tmp_path):
    sources = Ispy1(write_ispy1(tmp_path), Options(seed=3)).splits()
    patients = {split: {(item.patient, item.label) for item in source.items} for split, source in sources.items()}
    assert [len(patients[split]) for split in ("train", "val", "test")] == [16, 2, 2]
    assert len({patient for found in patients.values() for patient, _ in found}) == 20
    assert sum(label for _, label in patients["train"]) == 4
    assert sources == Ispy1(tmp_path, Options(seed=3)).splits()
    assert sources != Ispy1(tmp_path, Options(seed=4)).splits()


def test_nearest_slices_stay_inside_the_volume():
    sizes = np.asarray([3, 9, 4, 0, 1, 0, 0, 2])
    assert choose_slices(sizes, 3) == [0, 1, 2]
    assert choose_slices(sizes, 4) == [0, 1, 2, 4]
    assert choose_slices(sizes, 10) == [0, 1, 2, 4, 7]
    assert choose_slices(np.zeros(4, np.int64), 3) == []


def sizes_of(*marked: int, largest: int, depth: int = 40) -> np.ndarray:
    """Return the tumour pixels per slice, with a tumour in the given slices."""
    sizes = np.zeros(depth, np.int64)
    sizes[list(marked)] = 5
    sizes[largest] = 9
    return sizes


def test_upward_rule_searches_up_from_five_below_then_down_to_fourteen_below():
    everywhere = sizes_of(*range(40), largest=20)
    assert choose_upward(everywhere, 10) == list(range(15, 25))
    # Slices without a tumour do not count; the search continues to the end.
    assert choose_upward(sizes_of(*range(16, 40, 2), largest=20), 10) == list(range(16, 36, 2))
    # Too few upward: 15 to 20 are six slices, then 14, 13, 12 and 11 follow.
    assert choose_upward(sizes_of(*range(21), largest=20), 10) == list(range(11, 21))
    # Slice 6 is fourteen below and chosen, slice 5 is not.
    assert choose_upward(sizes_of(4, 5, 6, 14, largest=20), 10) == [6, 14, 20]
    assert choose_upward(sizes_of(largest=20), 10) == [20]


def test_upward_rule_stays_inside_the_volume():
    # The authors' search from slice 1 - 5 also takes 36 to 39, numpy's meaning of -4 to -1, and 37 to 39 twice.
    assert choose_upward(sizes_of(0, 2, 37, 38, 39, largest=1), 10) == [0, 1, 2, 37, 38, 39]
    assert choose_upward(sizes_of(*range(40), largest=0), 10) == list(range(10))
    # Down from 6 - 5 - 1 = 0; then -1 to -8 would be 39 to 32.
    assert choose_upward(sizes_of(0, 1, 2, 30, largest=6, depth=31), 10) == [0, 1, 2, 6, 30]


def test_upward_rule_starts_half_the_number_of_slices_below():
    everywhere = sizes_of(*range(40), largest=20)
    assert choose_upward(everywhere, 4) == [18, 19, 20, 21]
    assert choose_upward(everywhere, 5) == [18, 19, 20, 21, 22]
    assert choose_upward(everywhere, 1) == [20]
    # Upward from 18 there are three slices, then the three below the start are searched: 17, 16 and 15.
    assert choose_upward(sizes_of(14, 15, 16, 18, 19, largest=20), 4) == [16, 18, 19, 20]
    assert choose_upward(sizes_of(13, 14, 15, largest=20), 4) == [15, 20]


def test_table_order_gives_the_splits_of_the_authors():
    # The classes alternate until one runs out; patients are numbered in the order of the table.
    rows = [place for pair in zip(range(43), range(43, 86), strict=True) for place in pair] + list(range(86, 157))
    outcomes = {f"P{place}": int(place < 43) for place in rows}
    found = order_splits(outcomes)
    for label, counts in ((0, (92, 11, 11)), (1, (35, 4, 4))):
        patients = [patient for patient, outcome in outcomes.items() if outcome == label]
        train, val, test = counts
        assert [found[patient] for patient in patients] == ["train"] * train + ["val"] * val + ["test"] * test


@pytest.mark.parametrize(("patients", "counts"), [(9, (9, 0, 0)), (10, (8, 1, 1)), (19, (17, 1, 1)), (20, (16, 2, 2))])
def test_val_and_test_are_a_tenth_of_each_class_rounded_down(patients, counts):
    found = list(order_splits({f"P{place}": 0 for place in range(patients)}).values())
    assert tuple(found.count(split) for split in ("train", "val", "test")) == counts


def test_the_authors_settings_choose_patients_and_slices(tmp_path):
    sources = Ispy1(write_deep_ispy1(tmp_path), Options(settings=RELEASE)).splits()
    patients = {split: sorted({item.patient for item in source.items}) for split, source in sources.items()}
    # The last of the 15 patients without a complete response are val and test; none of the 5 with one.
    assert (patients["val"], patients["test"]) == (["1019"], ["1020"])
    assert len(patients["train"]) == 18
    for source in sources.values():
        for patient in {item.patient for item in source.items}:
            assert [item.slice for item in source.items if item.patient == patient] == list(range(2, 12))


def test_each_slice_is_scaled_by_its_own_minimum_and_maximum(tmp_path):
    importer = Ispy1(write_deep_ispy1(tmp_path, 1), Options(size=0, lossless=True, settings={"scale": "slice"}))
    for item in importer.splits()["train"].items:
        _, components = importer.encode(item)
        image = decode_image(components["png"], "png")[..., 0]
        # A slice rises by 1 along x, which is the column, and by 20 along y, which is the row: from 0 to 11 + 180.
        rise = np.arange(12)[None, :] + 20 * np.arange(10)[:, None]
        assert np.array_equal(image, np.round(rise / 191 * 255))


def test_constant_slice_cannot_be_scaled_by_its_own_range(tmp_path):
    importer = Ispy1(write_ispy1(tmp_path, 1), Options(settings={"scale": "slice"}))
    item = importer.splits()["train"].items[0]
    with pytest.raises(ShardError, match=r"DCEMRI_1\.nii: all values of slice 1 are 100: use scale=volume"):
        importer.encode(item)


def test_too_few_slices_for_the_upward_rule_are_reported_in_one_line(tmp_path):
    raw = write_ispy1(tmp_path, 3)
    with pytest.raises(
        ShardError, match=r"1001_tumor_mask\.nii: slice_rule=upward finds 4 slices .* needs 10: remove "
    ) as error:
        Ispy1(raw, Options(settings={"slice_rule": "upward"})).splits()
    assert "\n" not in str(error.value)
    found = Ispy1(raw, Options(settings={"slice_rule": "upward", "slices": "4"})).splits()["train"].items
    assert [item.slice for item in found if item.patient == found[0].patient] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(settings={"split": "tabel"}), r"setting split='tabel': Input should be 'seeded' or 'table'"),
        (Options(settings={"slice_rule": "down"}), r"setting slice_rule='down': Input should be 'nearest' or 'upward'"),
        (Options(settings={"scale": "slice", "low": "1"}), r"low has no effect with scale=slice: remove it"),
        (Options(seed=3, settings={"split": "table"}), r"--seed 3 has no effect with split=table: remove it"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(tmp_path, options, message):
    with pytest.raises(ShardError, match=message) as error:
        Ispy1(tmp_path, options)
    assert "\n" not in str(error.value)


def test_manifest_omits_newer_settings_at_their_defaults(tmp_path):
    def stated(**settings):
        return Ispy1(tmp_path, Options(settings=settings)).manifest_options

    before = {"size": 256, "seed": 0, "lossless": False, "slices": 10, "low": 0.5, "high": 99.5}
    assert stated() == stated(split="seeded", slice_rule="nearest", scale="volume") == before
    assert stated(slice_rule="upward") == before | {"slice_rule": "upward"}
    assert stated(**RELEASE) == {"size": 256, "lossless": False, "slices": 10, **RELEASE}


def test_intensities_are_scaled_by_the_volume_and_masks_have_the_same_orientation(tmp_path):
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
        (lambda raw: ispy1_mask(raw, 1002).unlink(), "patient 1002 in the table is missing"),
        (lambda raw: save_volume(ispy1_mask(raw, 1002), np.zeros((12, 10, 7))), "must have the same shape"),
        (
            lambda raw: save_volume(ispy1_mask(raw, 1002), np.arange(math.prod(ISPY1_SHAPE)).reshape(ISPY1_SHAPE) % 3),
            r"1002_tumor_mask\.nii: a binary mask must have the values 0 and 1, or 0 and 255, but this one has 0, 1, 2",
        ),
        (lambda raw: save_volume(ispy1_mask(raw, 1002), np.zeros(ISPY1_SHAPE)), "marks no tumour"),
        (lambda raw: save_volume(ispy1_mask(raw, 1002), np.full(ISPY1_SHAPE, np.nan)), "960 NaN or infinite values"),
        (lambda raw: ispy1_mask(raw, 1002).write_bytes(b"cut"), "cannot be read"),
        (
            lambda raw: save_volume(ispy1_mask(raw, 1002), np.zeros((*ISPY1_SHAPE, 2))),
            "must have 3 dimensions, but has 4",
        ),
        (
            lambda raw: (raw / "outcome_new.csv").write_text("SUBJECTID,PCR\n1001,yes\n"),
            "row 2: patient '1001' has PCR 'yes': must be 0 or 1, or empty",
        ),
        (
            lambda raw: (raw / "outcome_new.csv").write_text("SUBJECTID,PCR\n1001,0\n1001,1\n"),
            "row 3: patient '1001' has a second row",
        ),
        (
            lambda raw: (raw / "outcome_new.csv").write_text("SUBJECTID,PCR\n../1001,0\n"),
            r"row 2: patient '\.\./1001': SUBJECTID must be letters and digits",
        ),
        (lambda raw: (raw / "outcome_new.csv").write_text("id,PCR\n1001,1\n"), "needs the columns SUBJECTID and PCR"),
        (lambda raw: (raw / "outcome_new.csv").unlink(), "contains neither outcome_new.csv nor"),
    ],
)
def test_invalid_raw_data_are_reported_in_one_line(tmp_path, spoil, message):
    raw = write_ispy1(tmp_path, 3)
    spoil(raw)
    with pytest.raises(ShardError, match=message) as error:
        Ispy1(raw).splits()
    assert "\n" not in str(error.value)


def test_truncated_data_and_a_constant_volume_are_refused(tmp_path):
    raw = write_ispy1(tmp_path, 2)
    importer = Ispy1(raw)
    items = importer.splits()["train"].items
    first, other = items[0], next(item for item in items if item.patient != items[0].patient)
    whole = first.image.read_bytes()
    first.image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"DCEMRI_1\.nii cannot be read"):
        importer.encode(first)
    save_volume(other.image, np.ones(ISPY1_SHAPE))
    with pytest.raises(ShardError, match=r"percentiles 0\.5 and 99\.5 have the same value"):
        importer.encode(other)
