"""The picture: which cases it shows, and that what they hold can be seen in it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from case_rows import cases_of
from manifests import manifest_of
from uml_dist.evaluate import examples
from uml_dist.evaluate.examples import Example
from uml_dist.evaluate.sheet import COLOURS, WIDTH, draw_sheet, write_sheet

CLASSES = ("background", "lesion")


def case(number, label, overlap, pixels=100):
    """A case whose lesion of 50 pixels is found by `overlap` pixels of as many."""
    areas = {"intersection_1": overlap, "predicted_1": 50, "true_1": 50}
    return {"key": f"{number:04d}", "label": label, "pixels": pixels, "image_nll": 0.1 + number, **areas}


def choose(rows, manifest):
    return list(examples.choose(cases_of(rows), manifest))


def dices(cases):
    return [chosen["intersection_1"] / 50 for chosen in cases]


def test_a_dozen_is_half_of_each_class_from_its_best_to_its_worst():
    cases = [case(number, number % 2, 50 - number) for number in range(50)]
    chosen = choose(cases, manifest_of())
    assert Counter(one["label"] for one in chosen) == {0: 6, 1: 6}
    assert dices(chosen) == sorted(dices(chosen), reverse=True)
    for label in (0, 1):
        of_class = [one["key"] for one in chosen if one["label"] == label]
        assert (of_class[0], of_class[-1]) == (f"{label:04d}", f"{48 + label:04d}")
    assert choose(cases[::-1], manifest_of()) == chosen


def test_a_class_of_few_cases_leaves_its_places_to_the_others():
    cases = [case(number, 0, 50 - number) for number in range(40)] + [case(40, 1, 3), case(41, 1, 9)]
    assert Counter(one["label"] for one in choose(cases, manifest_of())) == {0: 10, 1: 2}
    assert len(choose(cases[:5], manifest_of())) == 5
    assert choose([], manifest_of()) == []


EMPTY = {"intersection_1": 0, "predicted_1": 0, "true_1": 0}


def test_empty_images_without_a_prediction_come_last():
    cases = [case(0, 0, 40) | EMPTY, case(1, 0, 40), case(2, 0, 0)]
    assert [one["key"] for one in choose(cases, manifest_of())] == ["0001", "0002", "0000"]


def test_empty_images_are_shown_only_where_a_place_is_left():
    """Most healthy cases have no lesion, and a Dice of 1 by the rule; lesions of the same class show more."""
    cases = [case(number, number % 2, 50 - number) for number in range(20)]
    empty = [case(100 + number, 0, 0) | EMPTY for number in range(30)]
    assert choose(cases + empty, manifest_of()) == choose(cases, manifest_of())
    few = choose(cases[:5] + empty, manifest_of())
    assert [one["true_1"] for one in few] == [50] * 5 + [0] * 7
    assert len(choose(empty, manifest_of())) == 12


def test_cases_of_which_nothing_is_known_are_ranked_by_their_vacuity():
    cases = [
        {"key": f"{n:04d}", "label": -1, "image_nll": np.nan, "image_vacuity": abs(7 - n) / 100} for n in range(30)
    ]
    chosen = choose(cases, manifest_of())
    assert (chosen[0]["key"], chosen[-1]["key"]) == ("0007", "0029")


def test_without_masks_the_likelihood_of_the_label_ranks():
    cases = [{"key": f"{n:04d}", "label": 0, "image_nll": abs(7 - n)} for n in range(30)]
    chosen = choose(cases, manifest_of(mask_classes=()))
    assert (chosen[0]["key"], chosen[-1]["key"]) == ("0007", "0029")


def example(number, size=(32, 32), **absent):
    generator = np.random.default_rng(number)
    truth = np.zeros(size, dtype=np.uint8)
    truth[8:24, 8:24] = 1
    truth[:2] = 255
    values = {
        "image": np.full((*size, 3), 0.5, dtype=np.float32),
        "truth": truth,
        "predicted": (truth == 1).astype(np.uint8),
        "vacuity": generator.random(size, dtype=np.float32) * 0.1,
        "maps": {"reliable mask": (truth == 1).astype(np.float32)},
    }
    return Example(title=f"case {number} $5", wrong=number % 2 == 0, **{**values, **absent})


def pixels_of(path):
    image = Image.open(path)
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def near(picture, colour, tolerance=10):
    """How many pixels are of a colour."""
    return int((np.abs(picture - np.asarray(colour)).max(2) <= tolerance).sum())


def mixed(colour):
    """A class colour as it lies over the grey image."""
    rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return 0.45 * 127.5 + 0.55 * np.asarray(rgb)


def test_twelve_cases_make_a_picture_of_1600_pixels_width_below_a_megabyte(tmp_path):
    shown = [example(number, vacuity=np.full((32, 32), 0.01 * number, np.float32)) for number in range(12)]
    write_sheet(tmp_path / "evaluation" / "sheet.png", shown, CLASSES, "a run")
    picture = pixels_of(tmp_path / "evaluation" / "sheet.png")
    assert picture.shape[1] == WIDTH
    assert 900 < picture.shape[0] < 1400
    assert (tmp_path / "evaluation" / "sheet.png").stat().st_size < 1_000_000
    side = 140**2
    # The lesion is a quarter of each truth and each prediction, and of the reliable masks, the rest of which is black.
    assert near(picture, mixed(COLOURS[0])) > 12 * 2 * side * 0.15
    assert near(picture, (0, 0, 0)) > 12 * side * 0.6
    # One scale: the least vacuity is the dark end of the map, the greatest its bright end.
    assert near(picture, (0, 34, 78), 12) > side * 0.9
    assert near(picture, (254, 232, 56), 12) > side * 0.9
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["sheet.png"]


def test_the_same_cases_make_the_same_picture(tmp_path):
    for name in ("one.png", "two.png"):
        write_sheet(tmp_path / name, [example(1), example(2)], CLASSES, "a run")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_what_a_case_has_not_is_grey_and_what_none_has_is_no_panel(tmp_path):
    write_sheet(tmp_path / "some.png", [example(1), example(2, truth=None)], CLASSES, "a run")
    write_sheet(tmp_path / "all.png", [example(1), example(2)], CLASSES, "a run")
    grey = (230, 230, 230)
    assert near(pixels_of(tmp_path / "some.png"), grey, 4) > near(pixels_of(tmp_path / "all.png"), grey, 4) + 15000
    nothing = {"truth": None, "predicted": None, "vacuity": None, "maps": {}}
    write_sheet(tmp_path / "image.png", [example(1, (20, 40), **nothing)], (), "a run")
    picture = pixels_of(tmp_path / "image.png")
    assert near(picture, (128, 128, 128)) == pytest.approx(320 * 160, rel=0.1)


def test_texts_of_any_length_are_shortened_to_the_width_of_the_picture():
    long = "W" * 10_000 + "\n$x$"
    figure = draw_sheet([replace(example(1), title=long), example(2)], ["background", *[long] * 200], long)
    renderer = FigureCanvasAgg(figure).get_renderer()
    words = [text for text in figure.texts if text.get_text()]
    assert sum("…" in text.get_text() for text in words) > 3
    assert all(text.get_window_extent(renderer).x1 <= WIDTH for text in words)
    assert all(text.get_text().isprintable() for text in words)
    assert any("more" in text.get_text() for text in words)
