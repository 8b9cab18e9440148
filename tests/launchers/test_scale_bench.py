"""The benchmark of large trainings: the part that needs no training, and the table that it writes."""

import csv

import pytest

import scale
import scale_index


def test_every_process_is_measured_on_the_same_split(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale_index, "PROCESSES", 2)
    monkeypatch.setattr(scale_index, "LINKS", 3)
    words = ["--parts", "index", "--shards", "5", "--ranks", "8", "--out", str(tmp_path)]
    assert scale.main(words) == 0
    with (tmp_path / "scale_index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["process"] for row in rows] == ["1", "2"]
    assert {(row["samples"], row["shards"], row["ranks"]) for row in rows} == {("5000", "5", "8")}
    assert all(float(row["open_processor_seconds"]) > 0 for row in rows)
    assert all(row["processor"] for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["scale_index.csv"]
    assert "scale_index.csv" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--shards", "0"], ["--steps", "10"]])
def test_a_wrong_setting_is_refused_in_one_line(words, capsys):
    assert scale.main(words) == 2
    assert (
        capsys.readouterr().err
        == "error: --shards, --ranks and --processes must be at least 1, and --steps at least 30\n"
    )
