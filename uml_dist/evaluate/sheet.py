"""A picture of a dozen cases: image, truth, prediction, vacuity and the recipe's own maps of each."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from uml_shards.durable import replace_bytes
from uml_shards.format.manifest import Manifest
from uml_shards.text import printable, shorten

from .examples import NAME_LENGTH, Example

WIDTH = 1600
"""Pixels."""

COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00")
"""Colours of the pixel classes but the background; told apart by colour-blind people (Okabe and Ito, 2008)."""

WRONG = "#C04000"
NOTHING = 0.9
"""Grey of a panel that a case lacks."""

DPI = 100
MARGIN, GAP, PANEL_GAP, BAR = 16, 28, 4, 74
HEADING, TITLE, FOOT = 44, 24, 34
TEXT, SMALL = 9.0, 8.0

Picture = NDArray[np.float64]
Pixels = tuple[float, float, float, float]
"""Left, top, width and height, from the upper left corner."""


def legend_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the pixel classes of a data set, or its lesions after a background."""
    return ("background", *manifest.mask_names) if manifest.mask_names else manifest.mask_classes


def write_sheet(path: Path, examples: Sequence[Example], classes: Sequence[str], heading: str) -> None:
    """Draw examples into a PNG of 1600 pixels width, two beside each other; vacuity has one scale for all.

    Args:
        path: path of the PNG.
        examples: at least one.
        classes: names of the pixel classes, background first; () without any.
        heading: a line above the cases.
    """
    canvas = FigureCanvasAgg(draw_sheet(examples, classes, heading))
    raw = io.BytesIO()
    canvas.print_png(raw)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, small_png(Image.open(raw)))


def small_png(image: Image.Image) -> bytes:
    """Return a picture as a PNG of 32 levels of each colour.

    That halves the file (1.0 to 0.5 MB), which the eye does not see; a palette bends the hues.
    """
    small = image.convert("RGB").point([round(level / 255 * 31) * 255 // 31 for level in range(256)] * 3)
    picture = io.BytesIO()
    small.save(picture, format="PNG", optimize=True)
    return picture.getvalue()


def vacuity_scale(examples: Sequence[Example]) -> ScalarMappable:
    """Return one scale of the vacuity for all examples, from 0 to the largest."""
    largest = max((float(np.nan_to_num(one.vacuity).max()) for one in examples if one.vacuity is not None), default=0.0)
    return ScalarMappable(Normalize(0.0, largest or 1.0), "cividis")


def draw_sheet(examples: Sequence[Example], classes: Sequence[str], heading: str) -> Figure:
    """Return the figure of `write_sheet`."""
    scale = vacuity_scale(examples)
    has_vacuity = any(one.vacuity is not None for one in examples)
    panels = panels_of(examples, scale)
    columns = 1 if len(examples) == 1 else 2
    rows = -(-len(examples) // columns)
    block = (WIDTH - 2 * MARGIN - (columns - 1) * GAP - (BAR if has_vacuity else 0)) / columns
    side = min((block - (len(panels) - 1) * PANEL_GAP) / len(panels), 320.0)
    tall = side * max(one.image.shape[0] / one.image.shape[1] for one in examples)
    height = round(HEADING + rows * (TITLE + tall + 8) + FOOT)
    page = _Page(height)
    page.write(MARGIN, 16, heading, size=11.0, weight="bold", width=WIDTH - 2 * MARGIN)
    for index, example in enumerate(examples):
        left = MARGIN + (index % columns) * (block + GAP)
        top = HEADING + (index // columns) * (TITLE + tall + 8)
        title = example.title + ("    wrong" if example.wrong else "")
        page.write(left, top + 12, title, WRONG if example.wrong else "k", width=block)
        for number, (name, draw) in enumerate(panels.items()):
            place = (left + number * (side + PANEL_GAP), top + TITLE, side, tall)
            page.show(draw(example), place)
            if index < columns:
                page.write(place[0] + side - 4, place[1] + tall - 9, name, "w", size=SMALL, anchor="right", boxed=True)
    if has_vacuity:
        page.colour_bar(scale, (WIDTH - MARGIN - BAR + 24, HEADING + TITLE, 14, min(3 * tall, height - 160)))
    page.legend(classes, height - FOOT / 2)
    return page.figure


class _Page:
    """A figure measured in pixels from its upper left corner."""

    def __init__(self, height: int) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, place: Pixels):
        left, top, width, tall = place
        bottom = self.height - top - tall
        return self.figure.add_axes((left / WIDTH, bottom / self.height, width / WIDTH, tall / self.height))

    def show(self, picture: Picture, place: Pixels) -> None:
        axes = self.axes(place)
        axes.set_axis_off()
        axes.imshow(picture, interpolation="nearest")
        axes.set_anchor("N")  # pictures may differ in shape

    def write(
        self,
        left: float,
        middle: float,
        text: str,
        colour: str = "k",
        size: float = TEXT,
        anchor: str = "left",
        weight: str = "normal",
        boxed: bool = False,
        width: float = WIDTH,
    ) -> None:
        """Write a line of text, shortened to a width in pixels."""
        text = shorten(printable(text), int(width / 3))  # no letter is narrower, and drawing a longer text takes long
        box = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.5} if boxed else None
        drawn = self.figure.text(
            left / WIDTH, 1.0 - middle / self.height, text, color=colour, fontsize=size, fontweight=weight,
            horizontalalignment=anchor, verticalalignment="center", parse_math=False, bbox=box,
        )  # fmt: skip
        while (found := drawn.get_window_extent(self.canvas.get_renderer()).width) > width and len(text) > 1:
            text = shorten(text, min(len(text) - 1, int(len(text) * width / found)))
            drawn.set_text(text)

    def colour_bar(self, scale: ScalarMappable, place: Pixels) -> None:
        bar = self.figure.colorbar(scale, cax=self.axes(place))
        bar.set_label("vacuity", fontsize=TEXT)
        bar.ax.tick_params(labelsize=SMALL)

    def legend(self, classes: Sequence[str], middle: float) -> None:
        left = MARGIN
        for number, name in list(enumerate(shorten(name, NAME_LENGTH) for name in classes))[1:]:
            if left > WIDTH / 2:
                self.write(left, middle, f"and {len(classes) - number} more")
                left += 80
                break
            axes = self.axes((left, middle - 6, 12, 12))
            axes.set_axis_off()
            axes.imshow([[to_rgb(class_colour(number))]], aspect="auto")
            self.write(left + 18, middle, name)
            left += 40 + 7 * len(name)
        words = ["above each case: label → predicted class with its probability"]
        if classes:
            words += ["white line: outline of the truth", "grey: ignored, or not there"]
        self.write(left, middle, "      ".join(words), size=SMALL, width=WIDTH - MARGIN - left)


def panels_of(examples: Sequence[Example], scale: ScalarMappable) -> dict[str, Callable[[Example], Picture]]:
    """Return the panels of the examples by title, with the function that draws each: (H, W, 3) in [0, 1].

    Args:
        examples: at least one.
        scale: colours of the vacuity.
    """
    grey = ScalarMappable(Normalize(0.0, 1.0), "gray")
    panels: dict[str, Callable[[Example], Picture]] = {"image": lambda one: one.image.astype(np.float64)}
    if any(one.truth is not None for one in examples):
        panels["truth"] = lambda one: _overlay(one, one.truth)
    if any(one.predicted is not None for one in examples):
        panels["prediction"] = lambda one: _overlay(one, one.predicted)
    if any(one.vacuity is not None for one in examples):
        panels["vacuity"] = lambda one: _map(one, one.vacuity, scale)
    for title in dict.fromkeys(title for one in examples for title in one.maps):
        panels[title] = lambda one, title=title: _map(one, one.maps.get(title), grey)
    return panels


def _map(example: Example, values: NDArray[np.float32] | None, scale: ScalarMappable) -> Picture:
    return _nothing(example) if values is None else np.asarray(scale.to_rgba(values))[..., :3]


def _overlay(example: Example, classes: NDArray[np.uint8] | None) -> Picture:
    """Return the image with coloured classes and the outline of the truth."""
    if classes is None:
        return _nothing(example)
    picture = example.image.astype(np.float64)
    for number in np.unique(classes):
        if number != 0:
            colour = np.full(3, NOTHING) if number == 255 else np.asarray(to_rgb(class_colour(int(number))))
            inside = classes == number
            picture[inside] = 0.45 * picture[inside] + 0.55 * colour
    if example.truth is not None:
        picture[_outline(example.truth)] = 1.0
    return picture


def _outline(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the foreground pixels that have a neighbour of another class."""
    edge = np.zeros(classes.shape, dtype=bool)
    edge[1:] |= classes[1:] != classes[:-1]
    edge[:-1] |= classes[1:] != classes[:-1]
    edge[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    edge[:, :-1] |= classes[:, 1:] != classes[:, :-1]
    return edge & (classes != 0) & (classes != 255)


def _nothing(example: Example) -> Picture:
    return np.full(example.image.shape, NOTHING)


def class_colour(number: int) -> str:
    """Return the colour of a pixel class but the background, or of a lesion, by its number from 1 on."""
    return COLOURS[(number - 1) % len(COLOURS)]
