"""Decode the components of a sample and check them against the manifest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Reason, ShardError, reason_of
from ..sample import IGNORE, PICTURES, Sample
from ..strict_json import parse_json
from .geometry import check_geometry
from .manifest import Manifest
from .picture import decode_image, decode_mask
from .volume import IMAGE, MASK, decode_volume, decode_volume_mask


@dataclass(frozen=True)
class Layout:
    """Properties that every sample of a split must have.

    Attributes:
        classes: number of image classes; 0 without labels.
        mask_classes: number of pixel classes; 0 without masks or with named masks.
        mask_names: names of masks that may overlap.
        channels: number of channels of every image, or None if it is not known yet.
        size: (H, W) of every image, or (H, W, D) of every volume; None if sizes differ.
        masked: whether every sample must have a mask.
        labelled: whether every sample must have a label.
        described: whether every sample must have a json with a label, which may be null.
    """

    classes: int = 0
    mask_classes: int = 0
    mask_names: tuple[str, ...] = ()
    channels: int | None = None
    size: tuple[int, ...] | None = None
    masked: bool = False
    labelled: bool = False
    described: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """Return the layout stated by a manifest."""
        return cls(
            classes=len(manifest.classes),
            mask_classes=len(manifest.mask_classes),
            mask_names=manifest.mask_names,
            channels=manifest.channels,
            size=manifest.size,
            masked=manifest.masked == manifest.samples,
            labelled=manifest.labelled == manifest.samples,
        )


def decode_sample(key: str, components: Mapping[str, bytes], layout: Layout) -> Sample:
    """Decode and check the components of one sample.

    Args:
        key: key of the sample.
        components: extension -> bytes.
        layout: properties that the sample must have.

    Raises:
        ShardError: a component is missing or invalid. The message does not name shard and key, which the caller adds;
            the error's reason is the faulty component.
    """
    part: Reason = "image"
    try:
        extension = find_image(components)
        data = components[extension]
        image = decode_volume(data) if extension == IMAGE else decode_image(data, extension)
        check_image(image.shape, layout)
        part = "label"
        label, meta = decode_label(components, layout)
        if extension == IMAGE:
            check_geometry(meta)
        part = "mask"
        mask = (_volume_mask if extension == IMAGE else _masks)(components, layout, image.shape[:-1])
        return Sample(key=key, image=image, mask=mask, label=label, meta=meta)
    except ShardError as error:
        raise ShardError(str(error), part) from None


def check_image(shape: tuple[int, ...], layout: Layout) -> None:
    """Check the shape (..., channels) of an image or a volume against the layout.

    Raises:
        ShardError: the number of channels or the size differs.
    """
    *size, channels = shape
    if layout.channels not in (None, channels):
        count = "1 channel" if channels == 1 else f"{channels} channels"
        raise ShardError(f"image has {count}, the manifest states {layout.channels}")
    if layout.size not in (None, tuple(size)):
        raise ShardError(f"image is {_by(size)}, the manifest states {_by(layout.size)}")


def find_image(extensions: Collection[str]) -> str:
    """Return the extension of the image component. An array is the image only if there is no 2D image.

    Raises:
        ShardError: there is no image, or there are several.
    """
    images = [extension for extension in extensions if extension in PICTURES]
    if not images and IMAGE in extensions:
        return IMAGE
    if len(images) != 1:
        found, wanted = ", ".join(extensions) or "nothing", ", ".join((*PICTURES, IMAGE))
        problem = "several are present" if images else "none is present"
        raise ShardError(f"needs exactly one image ({wanted}), but {problem}: found {found}")
    return images[0]


def decode_label(components: Mapping[str, bytes], layout: Layout) -> tuple[int | None, dict[str, Any]]:
    """Return the label from a sample's json or cls, and all other entries of its json.

    Raises:
        ShardError: the json is not an object, the label is not a class number, json and cls differ, or a required
            label is missing.
    """
    meta = _json(components.get("json"), layout)
    labels = [meta.pop("label", None), _cls(components.get("cls"))]
    stated = [label for label in labels if label is not None]
    if not stated:
        if layout.labelled:
            raise ShardError("the label is missing, but the manifest states that every sample has one")
        return None, meta
    label = stated[0]
    if stated[-1] != label:
        raise ShardError(f"json states label {repr(label)[:40]}, cls states {stated[-1]}")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < layout.classes:
        raise ShardError(f"label {repr(label)[:40]} is out of range: {layout.classes} classes")
    return label, meta


def _json(data: bytes | None, layout: Layout) -> dict[str, Any]:
    if data is None and not layout.described:
        return {}
    if data is None:
        raise ShardError("component json is missing")
    try:
        meta = parse_json(data)
    except Exception as error:
        raise ShardError(f"json: cannot be read: {reason_of(error)}") from None
    if not isinstance(meta, dict) or (layout.described and "label" not in meta):
        raise ShardError('json: must be an object with "label" set to a class number or null')
    return meta


def _cls(data: bytes | None) -> int | None:
    if data is None:
        return None
    if not data.strip().isdigit() or len(data) > 20:
        raise ShardError(f"cls: must be a class number, is {data[:20]!r}")
    return int(data)


def _volume_mask(components: Mapping[str, bytes], layout: Layout, size: tuple[int, ...]) -> NDArray[np.uint8] | None:
    if MASK not in components:
        if layout.masked:
            raise ShardError(f"component {MASK} is missing, but the manifest states that every sample has a mask")
        return None
    mask = decode_volume_mask(components[MASK], layout.mask_classes)
    if mask.shape != size:
        raise ShardError(f"{MASK}: mask is {_by(mask.shape)}, image is {_by(size)}")
    return mask


def _masks(components: Mapping[str, bytes], layout: Layout, size: tuple[int, ...]) -> NDArray[np.uint8] | None:
    names = [f"mask.{name}.png" for name in layout.mask_names] or ["mask.png", "seg.png"]
    classes = 2 if layout.mask_names else layout.mask_classes
    found = {name: decode_mask(components[name], classes, name) for name in names if name in components}
    if not found:
        if layout.masked:
            raise ShardError("component mask.png is missing, but the manifest states that every sample has a mask")
        return None
    for name, mask in found.items():
        if mask.shape != size:
            raise ShardError(f"{name}: mask is {_by(mask.shape)}, image is {_by(size)}")
    if not layout.mask_names:
        if len(found) > 1:
            raise ShardError("has both mask.png and seg.png: keep only one of them")
        return next(iter(found.values()))
    # An absent named mask is unknown, which differs from an empty one.
    return np.stack([found[name] if name in found else np.full(size, IGNORE, dtype=np.uint8) for name in names])


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
