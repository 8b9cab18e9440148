"""The exact text of the progress line, and how it is printed."""

import io
import math

import pytest

from uml_dist.recipes import Progress
from uml_dist.train.progress_line import ProgressPrinter, duration, progress_line

TERMS = {"loss": 0.41239, "classification": 0.126, "segmentation": 0.2, "segmentation_dice": 0.1, "mutual": 0.0849}
VACUITY = {"image": 0.314, "pixel": 0.22}


def test_line_of_a_step():
    progress = Progress(1200, 20000, "train", 1200, 20000)
    line = progress_line(progress, 2.345, TERMS, VACUITY, 312.44, 0.0123, 0.25)
    assert line == (
        "step 1200/20000  epoch 2.3  loss 0.412 (cls 0.13 seg 0.20 mut 0.08)  312.4 img/s  data 1.2 %  "
        "vacuity cls 0.31 px 0.22  eta 78 min"
    )


def test_line_names_the_phase_and_leaves_out_missing_terms():
    progress = Progress(3, 10, "both", 1, 8)
    line = progress_line(progress, 0.5, {"loss": 2.0}, {}, 8.0, 0.5, 2.0)
    assert line == "step 3/10  both  epoch 0.5  loss 2.000  8.0 img/s  data 50.0 %  eta 14 s"


def test_loss_that_is_not_a_number_is_shown():
    line = progress_line(Progress(1, 1, "train", 1, 1), 0.0, {"loss": math.nan}, {}, 1.0, 0.0, 1.0)
    assert "loss nan" in line
    assert line.endswith("eta 0 s")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (41, "41 s"), (99.4, "99 s"), (100, "2 min"), (720, "12 min"), (5999, "100 min"), (11520, "3.2 h")],
)
def test_duration_has_a_suitable_unit(seconds, words):
    assert duration(seconds) == words


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_replace_each_other_on_a_terminal_only():
    for stream, expected in (
        (io.StringIO(), "one\ntwo\nsaid\nthree\n"),
        (Terminal(), "\r\x1b[2Kone\r\x1b[2Ktwo\nsaid\n\r\x1b[2Kthree"),
    ):
        printer = ProgressPrinter(stream)
        printer.update("one")
        printer.update("two")
        printer.say("said")
        printer.update("three")
        assert stream.getvalue() == expected
