"""Reads a case and prepares it as the training's importer prepared the training data."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uml_shards.errors import ShardError
from uml_shards.read.split import Split, open_split

from .geometry import Geometry, PictureGeometry, VolumeGeometry
from .pictures import THUMBNAIL, read_picture, thumbnail
from .sources import Source
from .trained import Trained, described


@dataclass(frozen=True)
class Ready:
    """A case that is ready to be predicted.

    Attributes:
        source: the case.
        image: (H, W, channels) or (H, W, D, channels), as shards of the training store it.
        geometry: how it lies in the input.
        picture: (h, w, 3) uint8, the input for an overlay; None for a volume, whose `image` is shown.
    """

    source: Source
    image: NDArray[Any]
    geometry: Geometry
    picture: NDArray[np.uint8] | None = None


def read(source: Source, trained: Trained, picture: bool) -> Ready:
    """Read and prepare a case.

    Args:
        source: the case.
        trained: what the run was trained on.
        picture: whether the image for an overlay is needed.

    Raises:
        ShardError: the file is missing or damaged, or is not like the data of the training.
    """
    if source.kind == "sample":
        return _read_sample(source, trained, picture)
    dimensions = 3 if source.kind == "volume" else 2
    if not source.path.exists():
        raise ShardError(f"{source.path} does not exist, or is a link that leads nowhere")
    if not (source.path.is_file() or source.path.is_dir()):
        raise ShardError(f"{source.path} is neither a file nor a folder")
    if source.path.is_file() and not source.path.stat().st_size:
        raise ShardError(f"{source.path} is empty")
    if dimensions != trained.dimensions:
        kind = "a volume" if dimensions == 3 else "an image"
        raise ShardError(f"{source.path} is {kind}, but {trained.words}")
    if dimensions == 2:
        image, geometry, shown = read_picture(source.path, trained, THUMBNAIL if picture else 0)
        return Ready(source, image, geometry, shown)
    from .volumes import prepare_volume

    return Ready(source, *prepare_volume(source.path, source.more, trained))


@lru_cache(maxsize=8)
def _split(folder: Path) -> Split:
    return open_split(folder)


def _read_sample(source: Source, trained: Trained, picture: bool) -> Ready:
    split = _split(source.path)
    manifest = split.manifest
    if (manifest.dimensions, manifest.channels) != (trained.dimensions, trained.channels):
        held = described(manifest.dimensions, manifest.channels)
        raise ShardError(f"{source.path} holds {held}, but {trained.words}")
    assert source.number is not None
    sample = split.read(source.number)
    shape = sample.image.shape[:-1]
    if manifest.dimensions == 2:
        shown = thumbnail(sample.image, THUMBNAIL) if picture else None
        return Ready(source, sample.image, PictureGeometry.whole(shape), shown)
    stated = sample.meta.get("affine")
    affine = np.eye(4) if stated is None else np.asarray(stated, np.float64)
    sizes = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    pixel = None if stated is None else float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    return Ready(source, sample.image, VolumeGeometry(shape, affine, shape, sizes, (0, 0, 0), shape, sizes, pixel))
