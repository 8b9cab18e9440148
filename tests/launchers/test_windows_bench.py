"""The benchmark of sliding windows runs, and counts the windows that it times."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import torch

import windows


def test_each_size_of_batch_has_a_row_of_rates(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    size = ("--volume", "24", "20", "16", "--window", "16", "16", "16")
    windows.main([*size, "--rounds", "1", "--batches", "1", "3", "--features", "4", "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "windows.csv").open()))
    assert [(row["batch"], row["windows"], row["volume"]) for row in rows] == [
        ("1", "4", "24x20x16"),
        ("3", "4", "24x20x16"),
    ]
    for name in ("ours", "monai", "network"):
        assert all(float(row[f"{name}_windows_per_second"]) > 0 for row in rows)
    assert "network alone" in capsys.readouterr().out


def test_the_program_needs_nothing_from_the_tests():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = Path(__file__).parents[2] / "launchers" / "bench" / "windows.py"
    subprocess.run([sys.executable, program, "--help"], check=True, capture_output=True, env=environment)


def test_both_ways_predict_the_same():
    torch.manual_seed(0)
    image, network = torch.randn(1, 1, 24, 20, 16), torch.nn.Conv3d(1, 2, 3, padding=1)
    with torch.no_grad():
        ways, number = windows.ways_of(network, image, windows.Windows((16, 16, 16), (8, 8, 8), "uniform", 2))
        ours, monai = ways["ours"]().pixel_probability, ways["monai"]()
    assert number == 4
    torch.testing.assert_close(ours, monai)
