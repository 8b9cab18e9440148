"""Tests of parts of a split: their samples, and that unlabelled samples are bare images."""

import os
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broken_shards import restate_digests
from runs import PartlyKnown, make_partly_known
from uml_shards import ShardError, open_split
from uml_shards.format.volume import encode_volume
from uml_shards.importers import Importer, Options, Source
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read import part as parts
from uml_shards.read.samples import Samples
from uml_shards.sources.encode import encode_json
from uml_shards.write.writer import write_split


class WithoutMasks(PartlyKnown):
    """The phantom with some labels and no mask."""

    def encode(self, item):
        key, components = super().encode(item)
        return key, {name: data for name, data in components.items() if name != "mask.png"}


class Volumes(Importer):
    """Two volumes with label and mask."""

    name = summary = licence = source = where = tree = "volumes"
    default_size, needs_raw = 0, False

    def splits(self):
        return {"train": Source(range(2), classes=("a", "b"), mask_classes=("background", "tumour"))}

    def encode(self, item):
        values = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4) + item
        components = {"npy": encode_volume(values), "mask.npy": encode_volume((values % 2).astype(np.uint8))}
        return f"case-{item}", components | {"json": encode_json(item, {"patient": "P"})}


class Renamed(PhantomImporter):
    """The phantom under other keys."""

    def encode(self, item):
        key, components = super().encode(item)
        return f"other-{key}", components


def write(folder, kind, samples=8):
    importer = kind(options=Options(size=16, counts={"train": samples}))
    write_split(importer, "train", importer.splits()["train"], folder, samples_per_shard=3, quiet=True)
    return open_split(folder)


@pytest.fixture(scope="module")
def split(partly_known):
    return open_split(partly_known / "train")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight samples, all with label and mask."""
    return write(tmp_path_factory.mktemp("whole") / "train", PhantomImporter)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write(tmp_path_factory.mktemp("other") / "train", Renamed, samples=5)


@pytest.fixture
def write_list(tmp_path):
    def write(*lines, name="labelled.txt"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return write


def part_of(samples, name, ids=None):
    return parts.part_of(samples if isinstance(samples, Samples) else Samples([samples]), name, ids)


def same(one, two) -> bool:
    arrays = ((one.image, two.image), (one.mask, two.mask))
    return (one.key, one.label, one.meta) == (two.key, two.label, two.meta) and all(
        (a is None and b is None) or np.array_equal(a, b) for a, b in arrays
    )


def test_without_a_list_the_samples_with_a_mask_are_labelled(split):
    samples = [split.read(number) for number in range(len(split))]
    expected = [sample.key for sample in samples if sample.mask is not None]
    labelled, unlabelled = part_of(split, "labelled"), part_of(split, "unlabelled")
    assert 0 < len(expected) < len(split)
    assert labelled.keys() == tuple(expected)
    assert unlabelled.keys() == tuple(sample.key for sample in samples if sample.mask is None)


def test_without_any_mask_the_samples_with_a_label_are_labelled(tmp_path):
    split = write(tmp_path / "train", WithoutMasks)
    assert split.manifest.masked == 0
    labelled = part_of(split, "labelled")
    assert labelled.rows.tolist() == [number for number in range(8) if split.read(number).label is not None]
    assert (labelled.labels() >= 0).all()
    assert len(part_of(split, "unlabelled")) == 8 - len(labelled)


def test_masked_samples_are_known_without_reading_a_tar(partly_known):
    split = open_split(partly_known / "train")
    masked = split.masked()
    assert not split._files
    assert masked.tolist() == [split.read(number).mask is not None for number in range(len(split))]


@given(st.lists(st.booleans(), min_size=96, max_size=96))
@settings(max_examples=20, deadline=None)
def test_part_contains_the_chosen_samples_of_the_split(partly_known, chosen):
    split = open_split(partly_known / "train")
    part = Samples([split]).part("labelled", np.asarray(chosen))
    numbers = np.flatnonzero(chosen).tolist()
    assert len(part) == len(numbers) == sum(part.sizes()) == part.manifest.samples
    counts = [sum(split.locate(number)[0] == shard for number in numbers) for shard in range(5)]
    assert part.sizes() == tuple(count for count in counts if count)
    assert part.sizes() == tuple(shard.samples for shard in part.manifest.shards)
    assert part.labels().tolist() == split.labels()[numbers].tolist()
    assert (part.manifest.labelled, part.manifest.masked) == ((part.labels() >= 0).sum(), part.masked().sum())
    assert sum(part.manifest.class_counts) == part.manifest.labelled
    for number in (0, len(part) - 1) if numbers else ():
        assert same(part.read(number), split.read(numbers[number]))
    for number in (-1, len(part)):
        with pytest.raises(IndexError):
            part.read(number)


def test_unlabelled_samples_are_bare_images(split):
    part = part_of(split, "unlabelled")
    for number, place in enumerate(part.rows):
        given_, stored = part.read(number), split.read(int(place))
        assert (given_.key, given_.label, given_.mask, given_.weight) == (stored.key, None, None, 1.0)
        assert given_.meta == {}
        assert stored.meta
        assert np.array_equal(given_.image, stored.image)
    assert (part.labels() == -1).all()
    assert not part.masked().any()
    assert (part.manifest.labelled, part.manifest.masked, part.manifest.class_counts) == (0, 0, (0, 0))
    assert part.manifest.classes == split.manifest.classes
    assert part.manifest.statistics == split.manifest.statistics
    assert len(pickle.loads(pickle.dumps(part)).read(0).image) == 32


def test_patches_of_unlabelled_volumes_have_no_annotations(tmp_path, write_list):
    write_split(Volumes(), "train", Volumes().splits()["train"], tmp_path / "train", quiet=True)
    split = open_split(tmp_path / "train")
    ids = write_list("case-1")
    known, bare = (part_of(split, name, ids) for name in ("labelled", "unlabelled"))
    assert split.masked().tolist() == [True, True]
    patch = known.read_patch(0, (2, 3, 4), (0.5, 0.5, 0.5))
    assert (patch.label, patch.mask.shape, patch.meta) == (1, (2, 3, 4), {"patient": "P"})
    withheld = bare.read_patch(0, (2, 3, 4), (0.5, 0.5, 0.5))
    assert (withheld.key, withheld.label, withheld.mask, withheld.meta) == ("case-0", None, None, {})
    assert np.array_equal(withheld.image, patch.image - 1)
    with pytest.raises(IndexError):
        bare.read_patch(1, (2, 3, 4), (0.5, 0.5, 0.5))


def spoil(folder) -> None:
    """Overwrite all components except images, and the labels in the indices, with other values of the same length."""
    split = open_split(folder)
    tars = {shard.name: bytearray((folder / shard.name).read_bytes()) for shard in split.manifest.shards}
    for number in range(len(split)):
        _, components = split.components(number)
        tar = tars[split.manifest.shards[split.locate(number)[0]].name]
        for name, data in components.items():
            if name != "jpg":
                at = tar.index(data)
                tar[at : at + len(data)] = b"?" * len(data)
    for shard in split.manifest.shards:
        (folder / shard.name).write_bytes(tars[shard.name])
        index = np.load(folder / shard.index)
        index["label"] = 1 - np.abs(index["label"])
        np.save(folder / shard.index, index)
    restate_digests(folder)


def test_corrupt_annotations_do_not_affect_unlabelled_samples(whole, tmp_path, write_list):
    ids = write_list(*whole.keys()[2:4])
    before = part_of(whole, "unlabelled", ids)
    spoil(shutil.copytree(whole.path, tmp_path / "train"))
    after = part_of(open_split(tmp_path / "train"), "unlabelled", ids)
    with pytest.raises(ShardError):
        open_split(tmp_path / "train").read(0)
    assert after.keys() == before.keys()
    assert after.labels().tolist() == before.labels().tolist() == [-1] * 6
    assert all(same(after.read(number), before.read(number)) for number in range(6))


def test_list_that_is_a_pipe_is_refused_at_once(whole, tmp_path):
    os.mkfifo(tmp_path / "ids.txt")
    with pytest.raises(ShardError, match=r"list .*ids\.txt cannot be read: it is not a regular file"):
        part_of(whole, "labelled", tmp_path / "ids.txt")


def test_list_determines_the_part_and_may_have_comments(whole, write_list):
    keys = whole.keys()
    ids = write_list("\ufeff# drawn by hand", "", f"  {keys[5]}  ", keys[0] + "\r", "# the last", keys[7])
    assert part_of(whole, "labelled", ids).keys() == (keys[0], keys[5], keys[7])
    assert part_of(whole, "unlabelled", ids).keys() == tuple(keys[number] for number in (1, 2, 3, 4, 6))


def test_digest_depends_on_the_samples_of_the_part_only(whole, write_list):
    keys = whole.keys()
    ids = write_list(keys[0], keys[5])
    digests = {part_of(whole, name, ids).manifest.digest for name in ("labelled", "unlabelled")}
    assert len(digests | {whole.manifest.digest}) == 3
    again = write_list("# turned round", keys[5], keys[0], name="again.txt")
    assert {part_of(whole, name, again).manifest.digest for name in ("labelled", "unlabelled")} == digests
    others = write_list(keys[0], keys[4], name="others.txt")
    assert not {part_of(whole, name, others).manifest.digest for name in ("labelled", "unlabelled")} & digests


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train-000000", "train-000009"], r"labelled\.txt, line 2: key 'train-000009' is not in .*train$"),
        (["train-000000", "# x", "train-000000"], r"line 3: key 'train-000000' is already in line 1"),
        (["# none"], r"labelled\.txt contains no keys"),
    ],
)
def test_invalid_list_is_reported_in_one_line(whole, write_list, lines, message):
    for name in ("labelled", "unlabelled"):
        with pytest.raises(ShardError, match=message) as raised:
            part_of(whole, name, write_list(*lines))
        assert "\n" not in str(raised.value)


def test_unreadable_list_is_reported_in_one_line(whole, tmp_path):
    with pytest.raises(ShardError, match=r"list .*absent\.txt cannot be read: No such file"):
        part_of(whole, "labelled", tmp_path / "absent.txt")
    (tmp_path / "table.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ShardError, match=r"list .*table\.xlsx is not UTF-8 text"):
        part_of(whole, "labelled", tmp_path / "table.xlsx")


def test_listed_sample_without_annotations_is_named(split, write_list):
    samples = [split.read(number) for number in range(len(split))]
    unknown = next(sample.key for sample in samples if sample.mask is None and sample.label is None)
    some = next(sample.key for sample in samples if sample.mask is None and sample.label is not None)
    with pytest.raises(ShardError, match=rf"line 2: sample '{unknown}' has neither label nor mask: leave it out"):
        part_of(split, "labelled", write_list(some, unknown))
    assert part_of(split, "labelled", write_list(some)).read(0).label is not None


def test_an_empty_part_is_refused(whole, tmp_path, write_list):
    with pytest.raises(
        ShardError, match="is unlabelled: all have a mask or a label: list the labelled ones in labelled_ids"
    ):
        part_of(whole, "unlabelled")
    with pytest.raises(ShardError, match=r"is unlabelled: list .*labelled\.txt contains all of them"):
        part_of(whole, "unlabelled", write_list(*whole.keys()))
    with pytest.raises(ShardError, match="is labelled: none has a mask or a label"):
        part_of(whole.without_truth(), "labelled")


def test_parts_of_several_data_sets(whole, other, write_list):
    joined = Samples([whole, other])
    ids = write_list(whole.keys()[7], *other.keys()[1:3])
    labelled, unlabelled = part_of(joined, "labelled", ids), part_of(joined, "unlabelled", ids)
    assert labelled.keys() == (whole.keys()[7], *other.keys()[1:3])
    assert [sum(sizes) for sizes in labelled.sets()] == [1, 2]
    assert [sum(sizes) for sizes in unlabelled.sets()] == [7, 3]
    assert (len(labelled), len(unlabelled)) == (3, 10)
    assert same(labelled.read(1), other.read(1))
    assert unlabelled.read(9).label is None
    assert unlabelled.read(9).key == other.keys()[4]
    assert labelled.manifest.samples == 3
    of_one = part_of(joined, "labelled", write_list(*other.keys()[1:3]))
    assert of_one.sets() == ((), of_one.sizes())


def test_listed_key_in_two_data_sets_is_refused(whole, tmp_path, write_list):
    joined = Samples([whole, open_split(shutil.copytree(whole.path, tmp_path / "train"))])
    with pytest.raises(ShardError, match=r"line 1: key 'train-000003' is in two data sets of .* and 1 more$"):
        part_of(joined, "labelled", write_list("train-000003"))


def test_parts_of_data_sets_with_and_without_masks(whole, tmp_path, write_list):
    shards = make_partly_known(tmp_path, samples=12, size=16)
    joined = Samples([whole, open_split(shards / "train")])
    assert len(part_of(joined, "labelled")) == 8 + 8
    assert len(part_of(joined, "unlabelled")) == 4
