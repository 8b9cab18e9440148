"""The benchmark of checkpoints: what it measures, and that the table has every save."""

import csv
import multiprocessing

import pytest

import checkpoint_stall
from checkpoint_stall import WAYS, Figures, measure


@pytest.mark.parametrize("way", WAYS[:2])
def test_every_save_is_measured_and_nothing_is_left(way, tmp_path):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    measure(sender, way, 1000, 2, tmp_path)
    found = [receiver.recv() for _ in range(2)]
    assert receiver.recv() is None
    assert all(0 < one.stall <= one.whole or way == WAYS[0] for one in found)
    assert all(one.processor > 0 for one in found)
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_every_save(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint_stall, "run_alone", lambda *_: figures)
    figures = [Figures(9.0, 9.0, 10.0), Figures(1.0, 0.5, 4.0), Figures(3.0, 1.0, 8.0)]
    assert checkpoint_stall.main(["--parameters", "1000", "--saves", "3", "--out", str(tmp_path)]) == 0
    with (tmp_path / "checkpoint_stall.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["way"], row["save"]) for row in rows] == [(way, number) for way in WAYS for number in "123"]
    assert {row["bytes"] for row in rows} == {str(3 * 4 * 896)}  # 7 parameters in each of 128 tensors, three times
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(WAYS[1]))
    assert line.split() == [*WAYS[1].split(), "0", "M", "0.00", "9.00", "s", "2.00", "s", "0.75", "s", "6.00", "s"]


@pytest.mark.parametrize("words", [["--parameters", "1"], ["--saves", "1"]])
def test_a_wrong_setting_is_refused_in_one_line(words, capsys):
    assert checkpoint_stall.main(words) == 2
    assert capsys.readouterr().err == "error: --parameters must be at least 128, and --saves at least 2\n"
