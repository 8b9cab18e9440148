"""Read a patch of a volume without reading the complete volume."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import Reason, ShardError
from ..sample import IGNORE, Sample
from .decode import Layout, check_image, decode_label
from .geometry import check_geometry
from .volume import IMAGE, MASK, check_classes, check_finite, parse_header, read_patch


@dataclass(frozen=True)
class Part:
    """A component of a sample in an open tar.

    Attributes:
        offset: offset of the first byte.
        size: size in bytes.
        head: the first bytes of an array; all bytes of any other component.
    """

    offset: int
    size: int
    head: bytes


def read_patch_sample(
    descriptor: int, key: str, parts: Mapping[str, Part], layout: Layout, size: Sequence[int], place: Sequence[float]
) -> Sample:
    """Read a sample whose image and mask are a patch of the volume.

    A volume smaller than the patch along an axis is centred. Around it the image repeats its edge and the mask is 255.

    Args:
        descriptor: file descriptor of the tar.
        key: key of the sample.
        parts: extension -> component.
        layout: properties that the sample must have.
        size: (3,) size of the patch in voxels.
        place: (3,) position of the corner in [0, 1), from the first to the last possible voxel along each axis.

    Raises:
        ShardError: a component is missing or invalid. The message does not name shard and key; the error's reason is
            the faulty component.
    """
    part: Reason = "image"
    try:
        if IMAGE not in parts:
            raise ShardError(f"component {IMAGE} is missing")
        header = parse_header(parts[IMAGE].head, parts[IMAGE].size, IMAGE)
        check_image(header.shape, layout)
        volume = header.shape[:3]
        corner = [int(at * (max(side - wanted, 0) + 1)) for at, side, wanted in zip(place, volume, size, strict=True)]
        inside = [min(side, wanted) for side, wanted in zip(volume, size, strict=True)]
        image = read_patch(descriptor, parts[IMAGE].offset, header, corner, inside, IMAGE)
        check_finite(image)
        part = "label"
        label, meta = decode_label({name: found.head for name, found in parts.items()}, layout)
        check_geometry(meta)
        part = "mask"
        mask = _read_mask(descriptor, parts.get(MASK), layout, volume, corner, inside)
    except ShardError as error:
        raise ShardError(str(error), part) from None
    around = [((wanted - has) // 2, -((has - wanted) // 2)) for wanted, has in zip(size, inside, strict=True)]
    if any(before or after for before, after in around):
        image = np.pad(image, [*around, (0, 0)], mode="edge")
        mask = None if mask is None else np.pad(mask, around, constant_values=IGNORE)
    return Sample(key=key, image=image, mask=mask, label=label, meta=meta)


def _read_mask(
    descriptor: int,
    part: Part | None,
    layout: Layout,
    volume: Sequence[int],
    corner: Sequence[int],
    size: Sequence[int],
) -> NDArray[np.uint8] | None:
    if part is None:
        if layout.masked:
            raise ShardError(f"component {MASK} is missing, but the manifest states that every sample has a mask")
        return None
    header = parse_header(part.head, part.size, MASK)
    if header.shape != tuple(volume):
        shapes = ("x".join(map(str, shape)) for shape in (header.shape, volume))
        raise ShardError(f"{MASK}: mask is {next(shapes)}, image is {next(shapes)}")
    mask = read_patch(descriptor, part.offset, header, corner, size, MASK)
    check_classes(mask, layout.mask_classes)
    return mask
