"""Tests of scanning tars and of index files."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from manifests import manifest_of
from uml_shards import ShardError
from uml_shards.format.index import build_index, index_dtype, parse_index, save_index, scan_tar
from uml_shards.format.manifest import Shard

COMPONENTS = ("jpg", "json", "mask.png")
SAMPLE = {"jpg": b"J" * 700, "json": b"{}", "mask.png": b"M" * 30}


def members(*keys: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.{extension}", data) for key in keys for extension, data in SAMPLE.items()]


def write_tar(path, parts, **changes):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in parts:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            for field, value in changes.items():
                setattr(header, field, value)
            tar.addfile(header, io.BytesIO(data))
    return path


def test_index_points_at_the_bytes_of_every_component(tmp_path):
    path = write_tar(tmp_path / "a.tar", members("a", "b", "c"))
    data = path.read_bytes()
    index = build_index(path, COMPONENTS)
    assert len(index) == 3
    for row in index:
        for column, extension in enumerate(COMPONENTS):
            start = int(row["base"]) + int(row["start"][column])
            assert data[start : start + int(row["size"][column])] == SAMPLE[extension]


def test_absent_component_has_size_zero(tmp_path):
    parts = [*members("a"), ("b.jpg", b"x"), ("b.json", b"{}")]
    index = build_index(write_tar(tmp_path / "a.tar", parts), COMPONENTS)
    assert index["size"][:, 2].tolist() == [30, 0]


def test_row_takes_twelve_bytes_and_eight_per_component():
    assert index_dtype(3).itemsize == 36


def parse(index, rows=2, size=1 << 20):
    """Parse an index, or its bytes, as that of a tar of `size` bytes with `rows` samples of two classes."""
    shard = Shard(name="a.tar", bytes=size, sha256="0" * 64, samples=rows, index="a.npy", index_sha256="0" * 64)
    manifest = manifest_of(components=COMPONENTS, labelled=0, masked=0, shards=(shard,))
    return parse_index(index if isinstance(index, bytes) else saved(index), shard, manifest, Path("a.npy"))


def saved(index) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, index)
    return buffer.getvalue()


@pytest.fixture
def sound(tmp_path):
    """The index of a tar of two samples, and the size of the tar."""
    tar = write_tar(tmp_path / "a.tar", members("a", "b"))
    return build_index(tar, COMPONENTS), tar.stat().st_size


def test_saved_index_is_read_back(sound, tmp_path):
    save_index(sound[0], tmp_path / "a.npy")
    np.testing.assert_array_equal(parse((tmp_path / "a.npy").read_bytes()), sound[0])


def test_pickle_is_never_read():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ShardError, match="is not an index of 3 components"):
        parse(buffer.getvalue())


def test_index_of_other_components_is_refused():
    with pytest.raises(ShardError, match="is not an index of 3 components"):
        parse(np.zeros(1, index_dtype(2)))


def test_index_of_another_number_of_samples_is_refused(sound):
    with pytest.raises(ShardError, match="indexes 2 samples, the manifest states 3"):
        parse(sound[0], rows=3)


@pytest.mark.parametrize(
    ("row", "field", "value", "reason"),
    [
        (1, "base", 1 << 63, "points outside of the tar"),
        (1, "base", (1 << 64) - 1, "points outside of the tar"),
        (1, "base", 512, "sample 0 points outside of the tar or into another sample"),
        (0, "start", [0, 512, 2048], "sample 0 points outside"),
        (1, "start", [(1 << 32) - 1, 512, 2048], "sample 1 points outside"),
        (1, "size", [700, (1 << 32) - 1, 30], "sample 1 points outside"),
        (0, "size", [0, 0, 0], "sample 0 points outside"),
        (1, "label", 2, "sample 1 has label 2, which is out of range: 2 classes"),
        (0, "label", -2, "sample 0 has label -2"),
    ],
)
def test_row_that_does_not_fit_the_tar_is_refused(sound, row, field, value, reason):
    index, size = sound
    parse(index, size=size)
    index[field][row] = value
    with pytest.raises(ShardError, match=reason):
        parse(index, size=size)


def test_a_flipped_bit_of_the_header_is_refused_in_one_line(sound):
    data = saved(sound[0])
    for bit in range(8 * 192):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ShardError) as caught:
            parse(bytes(changed))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([("/a.jpg", b"x")], "absolute or leaves"),
        ([("x/../../a.jpg", b"x")], "absolute or leaves"),
        ([("a.jpg", b"x"), ("b.jpg", b"x"), ("a.json", b"{}")], "components are not adjacent"),
        ([*members("a"), *members("a")], "duplicate key a"),
        ([*members("a"), *members("b"), *members("a")], "key a occurs again"),
        ([("a.json", b"{}")], "none is present"),
        ([("a.jpg", b"x"), ("a.json", b"{}"), ("a.png", b"x")], "needs exactly one image"),
        ([("a.jpg", b""), ("a.json", b"{}")], "is empty"),
        ([("noextension", b"x")], "is not <key>.<extension>"),
        ([(".jpg", b"x")], "is not <key>.<extension>"),
        ([("p" * 90 + "/" + "k" * 30 + ".jpg", b"x")], "is not <key>.<extension>"),
        ([], "contains no samples"),
    ],
)
def test_tar_that_breaks_the_format_is_refused(tmp_path, parts, reason):
    with pytest.raises(ShardError, match=reason) as caught:
        scan_tar(write_tar(tmp_path / "a.tar", parts))
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("a.tar") == 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "a.tar")
    with pytest.raises(ShardError, match=r"a\.tar cannot be read: it is not a regular file$") as caught:
        scan_tar(tmp_path / "a.tar")
    assert str(caught.value).count("a.tar") == 1


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_member_of_negative_size_does_not_send_the_scan_back(tmp_path, kind):
    path = write_tar(tmp_path / "a.tar", members("a", "b"))
    data = bytearray(path.read_bytes())
    header = tarfile.TarInfo("b.jpg")
    header.type, header.size = kind, -3584
    data[3584 : 3584 + 512] = header.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"a\.tar: the tar is|a\.tar cannot be read"):
        scan_tar(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_special_files_are_refused(tmp_path, kind):
    with pytest.raises(ShardError, match="link or a special file"):
        scan_tar(write_tar(tmp_path / "a.tar", [("a.jpg", b"")], type=kind, linkname="/etc/passwd"))


def test_component_missing_from_the_manifest_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"component mask\.png that is not in the manifest"):
        build_index(write_tar(tmp_path / "a.tar", members("a")), ("jpg", "json"))


# Inside a header, inside data, in padding, between two members, between two samples, and in the end marker.
@pytest.mark.parametrize("cut", [0, 100, 512, 600, 1200, 1536, 2560, 3584, 3700, 7168, 7168 + 512])
def test_tar_truncated_anywhere_is_detected(tmp_path, cut):
    path = write_tar(tmp_path / "a.tar", members("a", "b"))
    assert len(scan_tar(path)) == 2
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ShardError, match=r"a\.tar"):
        scan_tar(path)


def test_damaged_header_is_not_taken_as_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", members("a", "b"))
    data = bytearray(path.read_bytes())
    data[3584 + 3] ^= 1  # the name in the header of the second sample
    path.write_bytes(data)
    with pytest.raises(ShardError, match="truncated or damaged after 1 samples"):
        scan_tar(path)


@pytest.mark.parametrize("name", ["\x1b[2J.jpg", "a\nb.jpg", " a.jpg", "a.j\x07pg", "a.jpg "])
def test_deceptive_names_of_members_are_refused_in_one_line(tmp_path, name):
    with pytest.raises(ShardError, match=r"a\.tar: .*the name '.*: rename it$") as caught:
        scan_tar(write_tar(tmp_path / "a.tar", [(name, b"J")]))
    assert str(caught.value).isprintable()
