"""From the bytes of a sample's components to numpy: an explicit whitelist, decoded with Pillow only.

What a general decoder does silently and a mask or a 16-bit image does not survive is refused here: a palette or alpha
channel turned into RGB, 16 bits cut to 8, grey levels of 1, 2 or 4 bits stretched to 255, later pages dropped.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ImageFile import ImageFile

from .errors import ShardError
from .manifest import Manifest
from .sample import IGNORE, Sample

# The plugins are called directly: Image.open would guess the format from the bytes, and warns on stderr before our own
# limit can speak.
_OPENERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "jpg": JpegImagePlugin.JpegImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "tif": TiffImagePlugin.TiffImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}

IMAGE_EXTENSIONS = tuple(_OPENERS)
"""Extensions of the component that is the image; a sample has exactly one."""

MAX_PIXELS = 1 << 26
"""Largest image or mask that is decoded, 8192 x 8192: a few bytes can claim to be more."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
_TIFF_BITS = 258
"""The tag BitsPerSample."""


@dataclass(frozen=True)
class Layout:
    """What the samples of a split must look like.

    Attributes:
        classes: number of image classes; 0 without labels.
        mask_classes: number of pixel classes; 0 without masks or with named ones.
        mask_names: of masks that may overlap.
        channels: of every image, or None when not known yet.
        size: (H, W) of every image, or None where sizes differ.
        masked: every sample must have a mask.
        labelled: every sample must have a label.
        described: every sample must have a json that states its label, be it null.
    """

    classes: int = 0
    mask_classes: int = 0
    mask_names: tuple[str, ...] = ()
    channels: int | None = None
    size: tuple[int, int] | None = None
    masked: bool = False
    labelled: bool = False
    described: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """The layout that a manifest states."""
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
        key: of the sample.
        components: extension -> bytes.
        layout: what the sample must look like.

    Raises:
        ShardError: the reason, without shard and key, which the caller knows.
    """
    images = [extension for extension in components if extension in _OPENERS]
    if len(images) != 1:
        found = ", ".join(images) or "none"
        raise ShardError(f"needs exactly one image component ({', '.join(IMAGE_EXTENSIONS)}), has {found}")
    image = decode_image(components[images[0]], images[0])
    height, width, channels = image.shape
    if layout.channels not in (None, channels):
        raise ShardError(f"image has {channels} channels, the manifest says {layout.channels}")
    if layout.size not in (None, (height, width)):
        raise ShardError(f"image is {height}x{width}, the manifest says {layout.size[0]}x{layout.size[1]}")
    label, meta = decode_label(components, layout)
    return Sample(key=key, image=image, mask=_masks(components, layout, (height, width)), label=label, meta=meta)


def decode_image(data: bytes, extension: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode an image: JPEG, PNG or TIFF, grey or RGB of 8 bits, or grey of 16 bits.

    Returns:
        (H, W, 1 or 3), uint8, or uint16 with every value as stored.

    Raises:
        ShardError: another format, mode or depth, too many pixels, several pages, damaged data.
    """
    opened = _open(data, extension)
    if _bits(opened, data) == 16 and opened.mode not in (*_SIXTEEN_BIT, "I"):
        raise ShardError(f"{extension}: 16-bit colour, which the decoder would cut to 8 bits: store it with 8")
    # Pillow before 11 opens a 16-bit grey PNG as "I", 32 bits wide; a TIFF in that mode really has 32 bits.
    sixteen = opened.mode in _SIXTEEN_BIT or (opened.mode == "I" and extension == "png")
    if not sixteen and opened.mode not in ("L", "RGB"):
        raise ShardError(f"{extension}: image mode {opened.mode} is not supported: use grey or RGB without alpha")
    array = _load(opened, extension)
    array = array[..., None] if array.ndim == 2 else array
    return array.astype(np.uint16, copy=False) if sixteen else array.astype(np.uint8, copy=False)


def _bits(opened: ImageFile, data: bytes) -> int:
    """Bits of a channel as stored, which the decoder's mode no longer tells."""
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        found = opened.tag_v2.get(_TIFF_BITS, 1)
        return max(found) if isinstance(found, tuple) else int(found)
    return data[24] if isinstance(opened, PngImagePlugin.PngImageFile) else 8


def decode_mask(data: bytes, classes: int, extension: str = "mask.png") -> NDArray[np.uint8]:
    """Decode a class map: a PNG of 8-bit grey whose values are class numbers or 255 = ignore.

    Returns:
        (H, W) uint8.

    Raises:
        ShardError: any other PNG, or a value that is no class.
    """
    mask = decode_grey(data, extension)
    wrong = (mask >= classes) & (mask != IGNORE)
    if wrong.any():
        value = int(mask[wrong][0])
        raise ShardError(f"{extension}: value {value} is out of range: {classes} mask classes, and 255 = ignore")
    return mask


def decode_grey(data: bytes, extension: str) -> NDArray[np.uint8]:
    """Decode a PNG of 8-bit grey, (H, W) uint8, every value as stored.

    Raises:
        ShardError: it is any other PNG, or damaged.
    """
    opened = _open(data, "png", extension)
    depth, colour = data[24], data[25]
    if (depth, colour) != (8, 0):
        raise ShardError(f"{extension}: must be a PNG of 8-bit grey, is of {depth} bits and colour type {colour}")
    return _load(opened, extension)


def decode_label(components: Mapping[str, bytes], layout: Layout) -> tuple[int | None, dict[str, Any]]:
    """The label in a sample's json or cls, and everything else that its json holds.

    Raises:
        ShardError: json that is no object, a label that is no class, two labels, or none where there must be one.
    """
    meta = _json(components.get("json"), layout)
    labels = [meta.pop("label", None), _cls(components.get("cls"))]
    stated = [label for label in labels if label is not None]
    if not stated:
        if layout.labelled:
            raise ShardError("the label is missing, the manifest says every sample has one")
        return None, meta
    label = stated[0]
    if stated[-1] != label:
        raise ShardError(f"json states label {label!r}, cls states {stated[-1]!r}")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < layout.classes:
        raise ShardError(f"label {label!r} is out of range: {layout.classes} classes")
    return label, meta


def _json(data: bytes | None, layout: Layout) -> dict[str, Any]:
    if data is None and not layout.described:
        return {}
    if data is None:
        raise ShardError("component json is missing")
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"json: {_line(error)}") from None
    if not isinstance(meta, dict) or (layout.described and "label" not in meta):
        raise ShardError('json: must be an object with "label": a class number or null')
    return meta


def _cls(data: bytes | None) -> int | None:
    if data is None:
        return None
    if not data.strip().isdigit() or len(data) > 20:
        raise ShardError(f"cls: must be a class number, is {data[:20]!r}")
    return int(data)


def _masks(components: Mapping[str, bytes], layout: Layout, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    names = [f"mask.{name}.png" for name in layout.mask_names] or ["mask.png", "seg.png"]
    classes = 2 if layout.mask_names else layout.mask_classes
    found = {name: decode_mask(components[name], classes, name) for name in names if name in components}
    if not found:
        if layout.masked:
            raise ShardError("component mask.png is missing, the manifest says every sample has a mask")
        return None
    for name, mask in found.items():
        if mask.shape != size:
            raise ShardError(f"{name}: is {mask.shape[0]}x{mask.shape[1]}, the image {size[0]}x{size[1]}")
    if not layout.mask_names:
        if len(found) > 1:
            raise ShardError("has both mask.png and seg.png: which is the mask?")
        return next(iter(found.values()))
    # A named mask that is absent is not known, which is not the same as empty.
    return np.stack([found[name] if name in found else np.full(size, IGNORE, dtype=np.uint8) for name in names])


def _open(data: bytes, image_format: str, extension: str | None = None) -> ImageFile:
    """Read the header only, and refuse what must not be decoded."""
    extension = extension or image_format
    try:
        opened = _OPENERS[image_format](BytesIO(data))
        pages = getattr(opened, "n_frames", 1) if image_format != "jpg" else 1
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError) as error:
        raise ShardError(f"{extension}: cannot be opened: {_line(error)}") from None
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise ShardError(f"{extension}: {height}x{width} is more than {MAX_PIXELS} pixels: resize it")
    if pages != 1:
        raise ShardError(f"{extension}: holds {pages} pages, must hold one")
    return opened


def _load(opened: ImageFile, extension: str) -> NDArray[Any]:
    try:
        return np.asarray(opened)
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, OverflowError) as error:
        raise ShardError(f"{extension}: cannot be decoded: {_line(error)}") from None


def _line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
