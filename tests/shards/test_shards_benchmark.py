"""Run the reading benchmark on a tiny phantom and check the rows of its file; times are not asserted."""

import csv
from pathlib import Path

import pytest

from commands import load_script

SCRIPT = Path(__file__).parents[2] / "shards" / "bench" / "reading.py"


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_every_reader_has_a_row(decoder, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    if decoder == "pillow":
        monkeypatch.setattr("uml_shards.format.jpeg.simplejpeg", None)
    load_script(SCRIPT).main(
        ["--samples", "16", "--rounds", "1", "--size", "16", "--index-shards", "4", "--out", str(tmp_path)]
    )
    with (tmp_path / "shards.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    alone = ["bare, Pillow alone", "ours, Pillow alone"] if decoder == "simplejpeg" else []
    readers = ["bare", "ours", *alone, "webdataset, our decoder", "webdataset, its decoder"]
    assert [row["what"] for row in rows] == [*readers, "resume", "index", "encoding", "writing"]
    assert all(float(row["value"]) > 0 for row in rows)
    assert {row["jpeg"].split()[0] for row in rows} == {decoder}
    shown = capsys.readouterr().out
    assert f"we decode JPEG by {decoder}" in shown
    assert "resume mid-epoch of 4,000 samples" in shown
