"""Indices of a large split: joined in one file of the cache, mapped, and the same as those that are loaded."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uml_shards import Cache, ShardError, open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read import indices
from uml_shards.read.indices import Changed, Joined
from uml_shards.write.writer import write_split

SAMPLES = 40


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Seven shards."""
    folder = tmp_path_factory.mktemp("many") / "train"
    importer = PhantomImporter(options=Options(size=32, counts={"train": SAMPLES, "val": 0, "test": 0}))
    write_split(importer, "train", importer.splits()["train"], folder, samples_per_shard=6, quiet=True)
    return folder


@pytest.fixture
def joined(monkeypatch) -> None:
    """Join the indices of every split, and keep two of them ready."""
    monkeypatch.setattr(indices, "LARGE", 1)
    monkeypatch.setattr(indices, "RECENT", 2)


def files_in(folder: Path) -> list[Path]:
    return sorted((folder / "indices").glob("*.index"))


def test_a_small_index_is_in_memory_and_a_large_one_in_a_file(shards, tmp_path, joined, monkeypatch):
    large = open_split(shards, Cache(tmp_path))
    assert isinstance(large._indices, Joined)
    assert [path.name for path in files_in(tmp_path)] == [f"{large.digest}.index"]
    monkeypatch.setattr(indices, "LARGE", 1 << 26)
    assert isinstance(open_split(shards, Cache(tmp_path / "unused"))._indices, list)
    assert not (tmp_path / "unused").exists()


def test_mapped_samples_are_the_same_as_loaded_ones(shards, tmp_path, monkeypatch):
    loaded = open_split(shards)
    monkeypatch.setattr(indices, "LARGE", 1)
    mapped = open_split(shards, Cache(tmp_path))
    for one, other in [
        (loaded, mapped),
        (loaded.without_truth(), mapped.without_truth()),
        (loaded.without_masks(), mapped.without_masks()),
        (loaded, pickle.loads(pickle.dumps(mapped))),
    ]:
        assert one.labels().tolist() == other.labels().tolist()
        assert one.masked().tolist() == other.masked().tolist()
        assert one.keys() == other.keys()
        for number in (0, 5, 6, SAMPLES - 1):
            ours, theirs = one.read(number), other.read(number)
            assert (ours.key, ours.label) == (theirs.key, theirs.label)
            assert np.array_equal(ours.image, theirs.image)
            assert (ours.mask is None) == (theirs.mask is None)


@settings(max_examples=30, deadline=None)
@given(numbers=st.lists(st.integers(-8, 8), max_size=12), recent=st.integers(1, 8))
def test_indices_are_a_sequence_in_any_order_of_use(shards, tmp_path_factory, numbers, recent):
    loaded = open_split(shards)._indices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indices, "LARGE", 1)
        patch.setattr(indices, "RECENT", recent)
        mapped = open_split(shards, Cache(tmp_path_factory.getbasetemp() / "shared"))._indices
        assert len(mapped) == len(loaded) == 7
        for number in numbers:
            if 0 <= number < 7:
                assert mapped[number].tobytes() == loaded[number].tobytes()
            elif number >= 7 or number < -7:
                with pytest.raises(IndexError):
                    mapped[number]
            assert mapped._ready.cache_info().currsize <= recent  # pyright: ignore[reportAttributeAccessIssue]
        assert [one.tobytes() for one in mapped] == [one.tobytes() for one in loaded]


def test_rows_are_in_the_mapped_file_and_cannot_be_changed(shards, tmp_path, joined):
    rows = open_split(shards, Cache(tmp_path))._indices[3]
    base = rows
    while not isinstance(base, np.memmap):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    assert not rows.flags.writeable


def test_the_file_is_used_again_and_an_index_that_was_removed_is_not_missed(shards, tmp_path, joined):
    first = open_split(shards, Cache(tmp_path))
    (file,) = files_in(tmp_path)
    made = file.stat().st_ino
    index = shards / first.manifest.shards[2].index
    data = index.read_bytes()
    index.unlink()
    try:
        assert open_split(shards, Cache(tmp_path)).labels().tolist() == first.labels().tolist()
    finally:
        index.write_bytes(data)
    assert file.stat().st_ino == made


@pytest.mark.parametrize("kept", [0, 7, -1])
def test_a_file_that_was_cut_off_is_made_again(shards, tmp_path, joined, kept):
    first = open_split(shards, Cache(tmp_path)).labels().tolist()
    (file,) = files_in(tmp_path)
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:kept])
    assert open_split(shards, Cache(tmp_path)).labels().tolist() == first
    assert file.read_bytes() == data


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_found_at_the_latest_when_its_index_is_used(shards, tmp_path_factory, data):
    cache = tmp_path_factory.getbasetemp() / "flipped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indices, "LARGE", 1)
        expected = open_split(shards, Cache(cache)).labels().tolist()
        (file,) = files_in(cache)
        good = file.read_bytes()
        place = data.draw(st.integers(0, len(good) - 1))
        bad = bytearray(good)
        bad[place] ^= 1 << data.draw(st.integers(0, 7))
        file.unlink()  # others may have mapped it
        file.write_bytes(bad)
        try:
            found = open_split(shards, Cache(cache)).labels().tolist()
        except ShardError as error:
            found = str(error)
        file.unlink()
    # What is outside of the indices themselves lets the file be made again.
    assert found == expected or "remove it, and it is made again" in found


def test_a_damaged_index_is_refused_while_the_indices_are_joined(shards, tmp_path, joined):
    index = shards / open_split(shards, Cache(tmp_path / "good")).manifest.shards[4].index
    data = index.read_bytes()
    index.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(ShardError, match="its sha256 differs from the manifest's"):
            open_split(shards, Cache(tmp_path))
    finally:
        index.write_bytes(data)
    assert files_in(tmp_path) == []


def test_a_cache_folder_that_cannot_be_written_is_one_line(shards, tmp_path, joined):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match=r"cannot be used for the index of .*: .*choose another folder") as error:
        open_split(shards, Cache(tmp_path / "file"))
    assert "\n" not in str(error.value)


def test_changed_indices_are_made_when_they_are_needed(shards):
    loaded, made = open_split(shards)._indices, []

    def change(index):
        made.append(len(index))
        return index

    changed = Changed(loaded, change)
    assert made == []
    assert changed[6].tobytes() == loaded[6].tobytes()
    changed[6]
    assert made == [len(loaded[6])]
    assert len(changed[1:3]) == 2
