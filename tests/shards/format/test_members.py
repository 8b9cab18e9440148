"""Keys in a tar that could deceive are refused by every way to read a sample."""

import io
import os
import tarfile

import pytest

from uml_shards import ShardError
from uml_shards.format.index import build_index
from uml_shards.format.members import read_components, read_key, read_parts


@pytest.mark.parametrize("read", [read_components, read_key, read_parts])
@pytest.mark.parametrize("key", [b"\x1b[2J", b"a\nb:", b"a\xcc\x81x", b"\xffabc"])
def test_a_deceptive_key_is_refused_in_one_line(tmp_path, read, key):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        header = tarfile.TarInfo("good.jpg")
        header.size = 3
        tar.addfile(header, io.BytesIO(b"JPG"))
    index = build_index(path, ("jpg",))
    path.write_bytes(path.read_bytes().replace(b"good.jpg", key + b".jpg"))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(ShardError, match=r"a\.tar: key of a sample: the name '.*: rename it$") as caught:
            read(descriptor, index[0], ("jpg",), path)
    finally:
        os.close(descriptor)
    assert str(caught.value).isprintable()
    assert caught.value.reason == "tar"
