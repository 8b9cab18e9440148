"""The benchmark of predictions: its commands exist, and its table has a row for each."""

import subprocess

from measured_command import Used
from prediction import commands, rows, table


def test_each_command_is_one_that_the_programs_take(tmp_path):
    for command in commands(tmp_path / "model", tmp_path / "shards", "test", tmp_path).values():
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "model" in done.stderr  # the only mistake: it does not exist


def test_the_table_has_a_row_for_each_command():
    found = rows({"predict": Used(4.0, 0.3456), "evaluate": Used(8.0, 0.5)}, cases=512)
    assert [row["cases_per_processor_second"] for row in found] == [128.0, 64.0]
    assert table(found).splitlines()[2:] == [
        "| predict | 512 | 4.0 | 128.0 | 0.346 |",
        "| evaluate | 512 | 8.0 | 64.0 | 0.5 |",
    ]
