"""Invalid shards and configurations, each wrong in one way."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.writer import TarWriter

from uml_shards import Manifest
from uml_shards.format.index import build_index, save_index
from uml_shards.importers import Options
from uml_shards.importers.base import Source
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.sources.encode import encode_grey
from uml_shards.write.plain import index_plain
from uml_shards.write.writer import write_split


class ThreePixelClasses(PhantomImporter):
    """The phantom with three pixel classes, whose masks contain only class 2."""

    def splits(self) -> dict[str, Source]:
        fields = {"classes": ("benign", "malignant"), "mask_classes": ("background", "lesion", "hair")}
        return {name: Source(items=source.items, **fields) for name, source in super().splits().items()}

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        key, components = super().encode(item)
        return key, components | {"mask.png": encode_grey(np.full((self.size, self.size), 2, dtype=np.uint8))}


class OtherClasses(PhantomImporter):
    """The phantom with other class names."""

    def splits(self) -> dict[str, Source]:
        fields = {"classes": ("naevus", "melanoma"), "mask_classes": ("background", "lesion")}
        return {name: Source(items=source.items, **fields) for name, source in super().splits().items()}


def write_shards(folder: Path, kind: type[PhantomImporter], *names: str, size: int = 16) -> Path:
    """Write splits of 4 samples with an importer."""
    importer = kind(options=Options(size=size, counts={"train": 4, "val": 4, "test": 4}))
    for name in names:
        write_split(importer, name, importer.splits()[name], folder / name, quiet=True)
    return folder


def restate(split: Path, **changes: Any) -> None:
    """Change entries of a split's manifest."""
    path = split / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def missing(shards: Path, folder: Path) -> Path:
    """Return a folder that does not exist."""
    return folder / "absent"


def empty(shards: Path, folder: Path) -> Path:
    """Create an empty folder for the split."""
    (folder / "train").mkdir(parents=True)
    return folder


def cut(shards: Path, folder: Path) -> Path:
    """A tar that is shorter than stated in its manifest."""
    copy = shutil.copytree(shards, folder / "cut")
    tar = copy / "train" / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    return copy


def without_tar(shards: Path, folder: Path) -> Path:
    """Remove a tar that the manifest lists."""
    copy = shutil.copytree(shards, folder / "without")
    (copy / "val" / "shard-000000.tar").unlink()
    return copy


def no_manifest(shards: Path, folder: Path) -> Path:
    """A manifest that is not valid JSON."""
    copy = shutil.copytree(shards, folder / "no-manifest")
    (copy / "train" / "manifest.json").write_text('{"schema_version": 2')
    return copy


def no_validation(shards: Path, folder: Path) -> Path:
    """Write shards without a validation split."""
    return write_shards(folder / "alone", PhantomImporter, "train")


def other_classes(shards: Path, folder: Path) -> Path:
    """Write training and validation splits with different classes."""
    copy = write_shards(folder / "other", OtherClasses, "val")
    shutil.copytree(shards / "train", copy / "train")
    return copy


def grey(shards: Path, folder: Path) -> Path:
    """Change the number of channels of the validation images."""
    copy = shutil.copytree(shards, folder / "grey")
    restate(copy / "val", channels=1, statistics={"mean": [0.5], "std": [0.2]})
    return copy


Wrong = Callable[[Path, Path], Path]

WRONG_SHARDS: dict[Wrong, str] = {
    missing: r"shard folder .*absent/train does not exist: make shards first \(`make shards`\)",
    empty: r"shard folder .*train contains no manifest\.json: make shards first \(`make shards`\)",
    cut: r"shard-000001\.tar: has \d+ bytes, the manifest states \d+: the copy is incomplete or has changed",
    without_tar: r"val/shard-000000\.tar cannot be read: No such file or directory: make the shards again",
    no_manifest: r"train/manifest\.json is not a manifest of schema version 2: ",
    no_validation: r"shard folder .*val does not exist",
    other_classes: r"the classes of validation are .*naevus.*, but those of stream train are .*benign",
    grey: r"channels is 1 in the images of validation and 3 in those of training: make the shards of one of them again",
}
"""Function that makes invalid shards from valid ones in a folder -> expected error."""

VGG_WEIGHTS = (
    *("model.width=1.0", "model.space_to_depth=1", "model.encoder.segmentation=vgg16"),
    "model.encoder.segmentation_weights=absent.pth",
)
"""Settings that start an encoder from a missing file."""

WRONG_SETTINGS: dict[tuple[str, ...], str] = {
    ("model.classes=3",): r"model\.classes = 3, but the shards of train have 2 \(benign, malignant\): change one",
    ("model.mask_classes=4",): r"model\.mask_classes = 4, but the shards of train have 2 \(background, lesion\)",
    ("streams.train.count=9",): r"streams\.train\.count = 9 cannot be shared by 2 ranks: use 1, 3, 9 ranks, or another",
    ("train.micro_batch=1",): r"train\.micro_batch = 1 splits a step into 4 micro batches, .*dice_scope = \"sample\"",
    ("train.best=dise",): r"train\.best: 'dise' is not a metric of this data \(did you mean dice\?\): .*, dice_lesion",
    ("train.best=mean(accuracy, dice_cup)",): r"train\.best: 'dice_cup' is not a metric of this data \(did you mean",
    ("train.best=mean(loss, dice)",): r"train\.best = 'mean\(loss, dice\)': lower is better for loss, higher for dice",
    ("windows.use=sometimes",): r"windows\.use = 'sometimes': .*'volumes', 'always' or 'never'",
    ("windows.stride=0",): r"windows\.stride.* = 0: .*greater than 0",
    ("windows.use=always", "windows.stride=33"): r"windows\.stride = \[33, 33\] leaves gaps between windows of 32 x 32",
    (
        "windows.use=always",
        "windows.stride=[8,8,8]",
    ): r"windows\.stride = \[8, 8, 8\] does not fit .*: give a number per axis",
    ("evaluation.surfaces=cm",): r"evaluation\.surfaces = 'cm': .*'none', 'mm' or 'voxel'",
    ("train.empty_masks=zero",): r"train\.empty_masks = 'zero': .*'one' or 'leave-out'",
    (
        "streams.other.shards=x",
        "streams.other.count=4",
    ): r"streams\.other is not used: recipe uml has the streams train",
    ("model.init=absent",): r"model\.init = 'absent' is neither a checkpoint, a run folder nor a safetensors file",
    VGG_WEIGHTS: r"weights absent\.pth: there is no such file: download it first",
    ("train.validate_split=vall",): r"shard folder .*vall does not exist",
    ("train.stepz=3",): r"unknown key train\.stepz: did you mean train\.steps\?",
    ("recipe=umi",): r"unknown recipe 'umi': did you mean uml\? ",
    ("recipe=nowhere.at_all:Mine",): r"recipe 'nowhere\.at_all:Mine': there is no module nowhere: install its package",
}
"""Settings that make a valid configuration of recipe uml on two ranks invalid -> expected error."""


def write_plain(folder: Path, samples: Sequence[Mapping[str, bytes]], **names: Any) -> Path:
    """Write a split of one tar, with samples case-0, case-1, ... and their components."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tar(folder / "a.tar", samples)
    index_plain(folder, overwrite=True, quiet=True, **names)
    return folder


def swap_tar(folder: Path, samples: Sequence[Mapping[str, bytes]]) -> None:
    """Replace the samples in the tar of `write_plain`; in the manifest, only components, sizes and digests change."""
    tar, manifest = folder / "a.tar", Manifest.load(folder)
    _write_tar(tar, samples)
    columns = sorted({*manifest.components, *(name for sample in samples for name in sample)})
    save_index(build_index(tar, columns), folder / "a.index.npy")
    manifest.model_copy(update={"components": tuple(columns)}).save(folder)
    restate_digests(folder)


def restate_digests(folder: Path) -> None:
    """State the present sizes and digests of all tars and indices in the manifest of a split."""
    manifest = Manifest.load(folder)
    shards = []
    for shard in manifest.shards:
        tar, index = ((folder / name).read_bytes() for name in (shard.name, shard.index))
        digests = {"sha256": hashlib.sha256(tar).hexdigest(), "index_sha256": hashlib.sha256(index).hexdigest()}
        shards.append(shard.model_copy(update={"bytes": len(tar), **digests}))
    manifest.model_copy(update={"shards": tuple(shards)}).save(folder)


def _write_tar(path: Path, samples: Sequence[Mapping[str, bytes]]) -> None:
    with TarWriter(str(path), encoder=False, mtime=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"case-{number}", **sample})
