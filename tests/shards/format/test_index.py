"""Tests of scanning tars and of index files."""

import io
import tarfile

import numpy as np
import pytest

from uml_shards import ShardError
from uml_shards.format.index import build_index, index_dtype, parse_index, save_index, scan_tar

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


def test_saved_index_is_read_back(tmp_path):
    index = build_index(write_tar(tmp_path / "a.tar", members("a", "b")), COMPONENTS)
    save_index(index, tmp_path / "a.npy")
    np.testing.assert_array_equal(parse_index((tmp_path / "a.npy").read_bytes(), 3, "a.npy"), index)


def test_pickle_is_never_read():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ShardError, match="is not an index file"):
        parse_index(buffer.getvalue(), 3, "a.npy")


def test_index_of_other_components_is_refused(tmp_path):
    save_index(np.zeros(1, index_dtype(2)), tmp_path / "a.npy")
    with pytest.raises(ShardError, match="is not an index of 3 components"):
        parse_index((tmp_path / "a.npy").read_bytes(), 3, "a.npy")


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
