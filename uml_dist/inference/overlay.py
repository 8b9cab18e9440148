"""A picture of a case: the input, the prediction drawn over it, and the uncertainty with its colour bar."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from uml_shards.text import printable, shorten

from ..evaluate.examples import NAME_LENGTH
from ..evaluate.sheet import COLOURS
from .case import Case
from .pictures import THUMBNAIL, thumbnail

LONGEST = 640
"""Longest side of a panel, in pixels."""

SHORTEST = 200
"""Smallest width of a panel, which is enlarged to hold its title."""

MARGIN, GAP, HEADING, TITLE, FOOT = 12, 8, 26, 22, 26
BAR, BAR_TEXT = 16, 44
TEXT, SMALL = 15, 13
OPACITY = 0.4

Picture = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_overlay(case: Case, name: str) -> bytes:
    """Return a PNG with the input, the classes over it, and the uncertainty with a colour bar from 0 to 1.

    Of a volume, the slice with the largest foreground is shown, or the middle one.

    Args:
        case: the case.
        name: its name, for the heading.
    """
    classes, names = _classes_of(case)
    shown = case.uncertainty_map
    values = None if shown is None else shown[1]
    volume = case.ready.image.ndim == 4
    if volume:
        base, classes, values, where = _slice_of(case, classes, values)
    else:
        base, where = _picture_of(case), ""
    height, width = _panel_size(*base.shape[:2])
    base = np.asarray(Image.fromarray(base).resize((width, height), Image.Resampling.BICUBIC))
    panels = [("input", base)]
    if classes is not None:
        panels.append(("prediction", _coloured(base, _reduced(classes, (height, width)))))
    if shown is not None and values is not None:
        placed = _placed(case, values, (height, width))
        colours = colormaps["cividis"](np.clip(placed, 0, 1), bytes=True)[..., :3]
        panels.append((shown[0], colours))
    return _page(f"{shorten(printable(name), 60)}{where}    {_figures(case)}", panels, names, bar=shown is not None)


def _figures(case: Case) -> str:
    parts = []
    if case.probability:
        best = max(case.probability, key=lambda name: case.probability[name])
        parts.append(f"{shorten(best, NAME_LENGTH)} {case.probability[best]:.2f}")
    if case.image_vacuity is not None:
        parts.append(f"vacuity {case.image_vacuity:.2f}")
    return "    ".join(parts)


def _classes_of(case: Case) -> tuple[torch.Tensor | None, Sequence[str]]:
    """Return one map of classes (*S), of lesions the last one of each pixel, and the names of its numbers from 1 on.

    The map of an image is that of its written mask; that of a volume has the size that was predicted.
    """
    found = case.prediction
    volume = case.ready.image.ndim == 4
    if found.lesions is not None and found.pixel_class is None:
        count = found.lesions.shape[1]
        lesions = [torch.from_numpy(case.lesion_mask(number)) for number in range(count)]
        each = found.lesions[0] if volume else torch.stack(lesions)
        numbers = torch.arange(1, count + 1).view(-1, *(1,) * (each.dim() - 1))
        return (each * numbers).amax(0).to(torch.uint8), case.classes.lesions
    if found.pixel_class is None:
        return None, ()
    mask = found.pixel_class[0] if volume or case.mask is None else torch.from_numpy(case.mask)
    return mask, case.classes.pixel[1:]


def _picture_of(case: Case) -> Picture:
    if case.ready.picture is not None:
        return case.ready.picture
    return thumbnail(case.ready.image, THUMBNAIL)


def _slice_of(
    case: Case, classes: torch.Tensor | None, values: torch.Tensor | None
) -> tuple[Picture, torch.Tensor | None, torch.Tensor | None, str]:
    """Return the slice of a volume, seen from the front of the patient's feet: right on the left, anterior on top."""
    volume = case.ready.image[..., 0]
    depth = volume.shape[2]
    areas = np.zeros(depth) if classes is None else (classes != 0).sum((0, 1)).numpy()
    number = int(areas.argmax()) if areas.any() else depth // 2
    grey = volume[..., number].astype(np.float32)
    low, high = np.percentile(grey, (1, 99))
    scaled = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1)
    turned = np.repeat((255 * scaled).astype(np.uint8)[..., None], 3, axis=2)

    def seen(array: torch.Tensor | None) -> torch.Tensor | None:
        return None if array is None else array[..., number].T.flip(0, 1)

    picture = np.ascontiguousarray(turned.transpose(1, 0, 2)[::-1, ::-1])
    spacing = getattr(case.ready.geometry, "spacing", (1.0, 1.0, 1.0))
    rows, columns = picture.shape[:2]
    tall = max(1, round(rows * spacing[1] / spacing[0]))
    picture = np.asarray(Image.fromarray(picture).resize((columns, tall), Image.Resampling.BILINEAR))
    return picture, seen(classes), seen(values), f"    slice {number + 1} of {depth}"


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """Return the size of the panels: small images are enlarged, large ones reduced."""
    factor = min(LONGEST / max(height, width), max(1.0, SHORTEST / width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _reduced(classes: torch.Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a map of classes in the size of a panel, by nearest neighbour."""
    height, width = size
    return np.asarray(Image.fromarray(classes.numpy()).resize((width, height), Image.Resampling.NEAREST))


def _placed(case: Case, values: torch.Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the uncertainty on a panel that shows the complete input; 1 where nothing was predicted.

    Args:
        case: the case.
        values: the uncertainty of an image, or of a slice.
        size: (H, W) of the panel.
    """
    shape, box = case.shape[:2], getattr(case.ready.geometry, "box", None)
    if box is None:
        box, shape = (0, 0, *size), size
    top, left, bottom, right = (
        round(side * to / of) for side, to, of in zip(box, size * 2, tuple(shape) * 2, strict=True)
    )
    inner = (max(bottom - top, 1), max(right - left, 1))
    enlarged = torch.nn.functional.interpolate(values.float()[None, None], inner, mode="bilinear", antialias=True)[
        0, 0
    ].numpy()
    panel = np.ones(size, np.float32)
    first, last = (max(top, 0), max(left, 0)), (min(bottom, size[0]), min(right, size[1]))
    panel[first[0] : last[0], first[1] : last[1]] = enlarged[
        first[0] - top : last[0] - top, first[1] - left : last[1] - left
    ]
    return panel


def _coloured(base: Picture, classes: NDArray) -> Picture:
    """Return the picture with transparent classes and their opaque outlines."""
    made = base.astype(np.float32)
    edge = np.zeros(classes.shape, bool)
    edge[1:] |= classes[1:] != classes[:-1]
    edge[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    edge[:-1] |= classes[1:] != classes[:-1]
    edge[:, :-1] |= classes[:, 1:] != classes[:, :-1]
    for number in np.unique(classes[classes != 0]):
        inside, colour = classes == number, 255 * np.asarray(to_rgb(_colour(int(number))), np.float32)
        made[inside] = (1 - OPACITY) * made[inside] + OPACITY * colour
        made[inside & edge] = colour
    return made.astype(np.uint8)


def _colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]


def _page(heading: str, panels: Sequence[tuple[str, Picture]], names: Sequence[str], bar: bool) -> bytes:
    """Return the PNG of panels beside each other, with a heading, titles, a legend and a colour bar."""
    tall, wide = panels[0][1].shape[:2]
    step = max(wide, SHORTEST // 2) + GAP
    width = 2 * MARGIN + len(panels) * step + (BAR + BAR_TEXT if bar else 0)
    height = MARGIN + HEADING + TITLE + tall + FOOT + MARGIN // 2
    page = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(TEXT)
    draw.text((MARGIN, MARGIN - 4), _fitting(draw, heading, font, width - 2 * MARGIN), "black", font)
    top = MARGIN + HEADING + TITLE
    small = ImageFont.load_default(SMALL)
    for place, (title, picture) in enumerate(panels):
        left = MARGIN + place * step
        draw.text((left, top - TITLE + 2), title, "black", small)
        page.paste(Image.fromarray(np.ascontiguousarray(picture)), (left, top))
    if bar:
        _draw_bar(page, (MARGIN + len(panels) * step, top, tall))
    left = MARGIN
    for number, name in enumerate(names, 1):
        text = _fitting(draw, shorten(printable(name), NAME_LENGTH), small, width - MARGIN - left - 18)
        draw.rectangle((left, top + tall + 8, left + 12, top + tall + 20), _colour(number))
        draw.text((left + 18, top + tall + 6), text, "black", small)
        left += 34 + int(draw.textlength(text, small))
        if left > width - 60:
            break
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = shorten(text, len(text) - max(1, len(text) // 12))
    return text


def _draw_bar(page: Image.Image, place: tuple[int, int, int]) -> None:
    """Draw the colour bar from 0 at the bottom to 1 at the top."""
    left, top, tall = place
    ramp = colormaps["cividis"](np.linspace(1, 0, tall), bytes=True)[:, None, :3].repeat(BAR, axis=1)
    page.paste(Image.fromarray(np.ascontiguousarray(ramp)), (left, top))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(SMALL)
    ticks = (0.0, 0.5, 1.0) if tall < 160 else (0.0, 0.25, 0.5, 0.75, 1.0)
    for value in ticks:
        middle = top + (1 - value) * (tall - 1)
        draw.line((left + BAR, middle, left + BAR + 3, middle), "black")
        draw.text((left + BAR + 6, middle), f"{value:g}", "black", font, anchor="lm")
