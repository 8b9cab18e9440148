"""Write the missing manifest and indices of plain webdataset tars in one pass.

The tars are only read. Decoded components: one image (`jpg`, `jpeg`, `png`, `tif`, `tiff`), a label (`json` with
`{"label": 1}`, or `cls` with a number), a mask (`mask.png` or `seg.png`). Other components are indexed, not decoded.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..durable import TEMPORARY
from ..errors import ShardError, reading, reason_of
from ..files import open_regular
from ..format.decode import Layout, decode_sample
from ..format.index import NO_LABEL, make_index, save_index, scan_tar
from ..format.manifest import FILE_NAME, MAX_CLASSES, PLAIN_NAME, Manifest, Shard
from ..format.members import read_components
from ..names import check_file_name, check_name
from ..sample import IGNORE, Sample
from .tally import Tally
from .unfinished import FOLDER


def index_plain(
    folder: str | Path,
    *,
    dataset: str | None = None,
    split: str | None = None,
    classes: Sequence[str] = (),
    mask_classes: Sequence[str] = (),
    overwrite: bool = False,
    quiet: bool = False,
) -> Manifest:
    """Decode and check every sample of the tars in a folder, then write manifest and indices beside them.

    Args:
        folder: folder of the tars, which are sorted by name.
        dataset: name of the data set; by default the folder's name.
        split: name of the split; by default the folder's name.
        classes: names of the image classes, in label order; by default the numbers up to the largest label.
        mask_classes: names of the pixel classes; by default the numbers up to the largest value except 255 = ignore.
        overwrite: whether to replace manifest and indices.
        quiet: whether to hide the progress bar.

    Raises:
        ShardError: there are no tars, a tar or sample is invalid, or a file cannot be written; no files are left
            behind.
    """
    folder = Path(folder)
    name = folder.resolve().name
    dataset = check_file_name(dataset or name, f"{folder}: data set")
    split = check_file_name(split or name, f"{folder}: split")
    for given in (*classes, *mask_classes):
        check_name(given, f"{folder}: class")
    with reading(folder):
        tars = _find(folder, overwrite)
    components: set[str] = set()
    samples = 0
    for tar in tars:
        entries = scan_tar(tar)
        samples += len(entries)
        components.update(extension for entry in entries for extension in entry.members)
    columns = tuple(sorted(components))
    if len(set(classes)) < len(classes) or len(set(mask_classes)) < len(mask_classes):
        raise ShardError("two classes have the same name: give each its own")
    seen = _Seen(Layout(len(classes) or MAX_CLASSES, len(mask_classes) or IGNORE))
    try:
        with tqdm(total=samples, desc=folder.name, unit="sample", disable=quiet or None) as bar:
            shards = [_index_tar(tar, columns, seen, bar) for tar in tars]
        largest_value = seen.largest_value()
        counts = seen.tally.class_counts
        class_names = tuple(classes) or _numbers(max(counts, default=-1))
        manifest = Manifest(
            dataset=dataset,
            split=split,
            channels=seen.tally.channels,
            size=seen.tally.size,
            classes=class_names,
            mask_classes=tuple(mask_classes) or _numbers(largest_value),
            components=columns,
            labelled=seen.tally.labelled,
            masked=seen.tally.masked,
            class_counts=tuple(counts[label] for label in range(len(class_names))),
            statistics=seen.tally.statistics(),
            licence="not stated",
            source="plain webdataset tars",
            shards=tuple(shards),
        )
        _publish(manifest, folder)
    except ShardError:
        raise
    except Exception as error:  # whatever a library raises on damaged bytes, or a disk on writing
        raise ShardError(f"{folder} cannot be indexed: {reason_of(error)}") from error
    finally:
        for tar in tars:
            _index_path(tar, TEMPORARY).unlink(missing_ok=True)
    return manifest


@dataclass
class _Seen:
    """Properties of the samples seen so far."""

    layout: Layout
    tally: Tally = field(default_factory=Tally)
    keys: dict[str, str] = field(default_factory=dict)
    values: set[int] = field(default_factory=set)

    def add(self, sample: Sample, tar: Path) -> None:
        if sample.key in self.keys:
            raise ShardError(f"duplicate key, also in {self.keys[sample.key]}: give each sample its own key")
        self.keys[sample.key] = tar.name
        self.tally.add(sample)
        if sample.mask is not None:
            self.values.update(np.flatnonzero(np.bincount(sample.mask.ravel(), minlength=IGNORE + 1)).tolist())

    def largest_value(self) -> int:
        """Return the largest class number in the masks; -1 without masks."""
        if self.values == {0, IGNORE}:
            problem = f"the masks contain only the values 0 and {IGNORE}, and {IGNORE} means ignore"
            raise ShardError(f"{problem}: store class numbers: 0, 1, ...")
        return max(self.values - {IGNORE}, default=-1)


def _find(folder: Path, overwrite: bool) -> list[Path]:
    if (folder / FOLDER).exists():
        raise ShardError(f"{folder} is an unfinished split: run the `shards.py make` command that started it again")
    if (folder / FILE_NAME).exists() and not overwrite:
        raise ShardError(f"{folder} already contains a manifest: pass --overwrite to replace it")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        inside = ", ".join(sorted({tar.parent.name for tar in folder.glob("*/*.tar")}))
        hint = f"index each of its subfolders: {inside}" if inside else "pass a folder of plain tars"
        raise ShardError(f"{folder} contains no *.tar files: {hint}")
    for tar in tars:
        if not re.match(PLAIN_NAME, tar.name):
            raise ShardError(f"{folder}: the file name {tar.name!r} is not allowed in a manifest: rename it")
    return tars


def _index_tar(tar: Path, columns: Sequence[str], seen: _Seen, bar: tqdm) -> Shard:
    """Check every sample of a tar and write its index under a temporary name."""
    entries = scan_tar(tar)
    index = make_index(entries, columns, [None] * len(entries), tar)
    with reading(tar):
        descriptor = open_regular(tar)
    try:
        for entry, record in zip(entries, index, strict=True):
            key, components = read_components(descriptor, record, columns, tar)
            try:
                with reading("it"):
                    sample = decode_sample(key, components, seen.layout)
                    seen.add(sample, tar)
            except ShardError as error:
                raise ShardError(f"{tar}: sample {entry.key}: {error}") from None
            record["label"] = NO_LABEL if sample.label is None else sample.label
            bar.update()
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    path = _index_path(tar, TEMPORARY)
    save_index(index, path)
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(
        name=tar.name,
        bytes=size,
        sha256=digest,
        samples=len(entries),
        index=_index_path(tar).name,
        index_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _publish(manifest: Manifest, folder: Path) -> None:
    """Rename the temporary indices, then write the manifest."""
    (folder / FILE_NAME).unlink(missing_ok=True)
    for shard in manifest.shards:
        (folder / f"{shard.index}{TEMPORARY}").replace(folder / shard.index)
    manifest.save(folder)


def _index_path(tar: Path, ending: str = "") -> Path:
    return tar.with_name(f"{tar.stem}.index.npy{ending}")


def _numbers(largest: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(largest + 1))
