"""The benchmark of reading, on a tiny phantom: it ends, and its file has the rows; no time is asserted."""

import csv
from pathlib import Path

from commands import load_script

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "shards.py"


def test_every_reader_has_a_row(tmp_path, capsys):
    load_script(SCRIPT).main(
        ["--samples", "16", "--rounds", "1", "--size", "16", "--index-shards", "4", "--out", str(tmp_path)]
    )
    with (tmp_path / "shards.csv").open(newline="") as file:
        values = {row["what"]: float(row["value"]) for row in csv.DictReader(file)}
    readers = ("bare", "ours", "webdataset, our decoder", "webdataset, its decoder")
    assert list(values) == [*readers, "resume", "index"]
    assert all(value > 0 for value in values.values())
    assert "resume in mid-epoch of 4,000 samples" in capsys.readouterr().out
