"""Targets of the fuzzing in uml_shards: tar, index, manifest, volume, json of a sample, pictures.

The manifest of a "restated" file states its sha256 again after the change, as that of a hostile author would.
"""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from broken_shards import restate_digests, write_plain
from fuzzing import Target
from uml_shards import Sample, ShardError, open_split
from uml_shards.format.decode import Layout, decode_sample
from uml_shards.format.index import index_dtype
from uml_shards.format.picture import decode_image, decode_mask
from uml_shards.format.volume import decode_volume, encode_volume
from uml_shards.sources.encode import encode_grey
from uml_shards.write.plain import index_plain

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
VOXELS = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
META = {"label": 1, "spacing": [0.5, 0.5, 2.0], "affine": np.diag([0.5, 0.5, 2.0, 1.0]).tolist(), "patient": "p1"}
ERRORS = (ShardError,)


def encoded(kind: str) -> bytes:
    """Encode the picture."""
    buffer = BytesIO()
    Image.fromarray(PICTURE).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {
    "png": encoded("PNG"),
    "json": b'{"label": 1}',
    "mask.png": encode_grey((PICTURE[..., 0] > 128).astype(np.uint8)),
}
VOLUMES = {
    "npy": encode_volume(VOXELS),
    "json": json.dumps(META).encode(),
    "mask.npy": encode_volume((VOXELS > 0).astype(np.uint8)),
}


def shard_targets(folder: Path) -> Iterator[Target]:
    """Yield the targets; their files are written in a folder."""
    for kind, sample in (("images", PICTURES), ("volumes", VOLUMES)):
        split = write_plain(folder / kind, [sample] * 3, classes=("a", "b"))
        yield _file_target(f"tar of {kind}", split, "a.tar", _read, _part_of_tar(split / "a.tar"))
        yield _file_target(f"tar of {kind}, restated", split, "a.tar", _read_restated, _part_of_tar(split / "a.tar"))
        yield _file_target(f"index of {kind}, restated", split, "a.index.npy", _read_restated, _part_of_index)
        manifest = split / "manifest.json"
        yield _file_target(f"manifest of {kind}", split, manifest.name, _read, _part_of_json(manifest.read_bytes()))
        yield _file_target(f"tar of {kind}, indexed", split, "a.tar", _index, _part_of_tar(split / "a.tar"))
    yield Target("volume", VOLUMES["npy"], lambda data: _array(decode_volume(data)), ERRORS, _part_of_npy)
    yield Target("json of a volume", VOLUMES["json"], _decode_with_json, ERRORS, _part_of_json(VOLUMES["json"]))
    yield Target("mask", PICTURES["mask.png"], lambda data: _array(decode_mask(data, 2)), ERRORS)
    for kind, extension in (("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif")):
        yield Target(
            f"picture in {kind}", encoded(kind), lambda data, e=extension: _array(decode_image(data, e)), ERRORS
        )


def _file_target(
    name: str, split: Path, changed: str, read: Callable[[Path], object], place: Callable[[int], str]
) -> Target:
    """Return a target of a split in which one file is replaced by the input."""
    copy = shutil.copytree(split, split.with_name(name))

    def replace_and_read(data: bytes) -> object:
        (copy / changed).write_bytes(data)
        return read(copy)

    return Target(name, (copy / changed).read_bytes(), replace_and_read, ERRORS, place)


def _read(folder: Path) -> object:
    split = open_split(folder)
    samples = [split.read(number) for number in range(len(split))]
    if split.manifest.dimensions == 3:
        samples += [split.read_patch(number, (3, 3, 3), (0.4, 0.5, 0.6)) for number in range(len(split))]
    return split.manifest.model_dump_json(exclude={"shards"}), split.keys(), [_content(sample) for sample in samples]


def _read_restated(folder: Path) -> object:
    """Read a split whose manifest states the sha256 of the changed file."""
    restate_digests(folder)
    return _read(folder)


def _index(folder: Path) -> object:
    index_plain(folder, classes=("a", "b"), overwrite=True, quiet=True)
    return _read(folder)


def _decode_with_json(data: bytes) -> object:
    return _content(decode_sample("k", {**VOLUMES, "json": data}, Layout(2, 2)))


def _content(sample: Sample) -> object:
    mask = None if sample.mask is None else _array(sample.mask)
    return sample.key, _array(sample.image), mask, sample.label, sample.meta


def _array(values: Any) -> object:
    return values.dtype.str, values.shape, values.tobytes()


def _part_of_tar(path: Path) -> Callable[[int], str]:
    parts: list[tuple[int, str]] = []
    with tarfile.open(path) as tar:
        for member in tar:
            extension = member.name.partition(".")[2]
            parts += [
                (member.offset, "tar header: name"),
                (member.offset + 100, "tar header: mode, owner"),
                (member.offset + 124, "tar header: size"),
                (member.offset + 136, "tar header: time, checksum, type, magic"),
                (member.offset + 265, "tar header: rest"),
                (member.offset_data, extension),
                (member.offset_data + member.size, "padding"),
            ]
        parts.append((tar.offset, "end"))
    return lambda at: next(name for start, name in reversed(parts) if at >= start)


def _part_of_index(at: int) -> str:
    dtype, start = index_dtype(3), 192
    if at < start:
        return "header"
    fields = [(dtype.fields[name][1], name) for name in dtype.names] if dtype.fields and dtype.names else []
    return next(name for offset, name in reversed(fields) if (at - start) % dtype.itemsize >= offset)


def _part_of_npy(at: int) -> str:
    return "header" if at < 128 else "voxels"


def _part_of_json(data: bytes) -> Callable[[int], str]:
    keys = [(found.start(), found[1].decode()) for found in re.finditer(rb'"(\w+)":', data)]
    return lambda at: next((name for start, name in reversed(keys) if at >= start), "the beginning")
