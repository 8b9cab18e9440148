"""Tests of the benchmark commands on tiny maps: exit codes, columns and rows of their files; no times are asserted."""

import csv
import os
from pathlib import Path

import pytest
import torch

if os.environ.get("TRITON_INTERPRET", "") == "1":
    pytest.skip("the benchmarks start the interpreter themselves", allow_module_level=True)
pytest.importorskip("triton")
pytest.importorskip("matplotlib")

import cpu
import errors
import gpu_check
import measure
import micro
import static
import tune
from report import COLUMNS
from workloads import WORKLOADS, Setting, available, make_inputs

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_microbenchmarks_write_a_row_for_each_provider_and_mode(tmp_path, capsys):
    micro.main(["--quick", "--cpu", "--no-compile", "--workload", "mutual", "--out", str(tmp_path)])
    rows = read(tmp_path / "micro.csv")
    assert tuple(rows[0]) == COLUMNS
    times = [(row["provider"], row["mode"], row["dtype"]) for row in rows if row["metric"] == "time"]
    assert len(times) == len(set(times)) == 3 * 3 * 2
    assert all(0 <= float(row["p20"]) <= float(row["p50"]) <= float(row["p80"]) for row in rows)
    assert {path.name for path in tmp_path.glob("*.png")} == {"micro_time.png", "micro_speed_up.png"}
    assert "mutual" in capsys.readouterr().out


def test_functions_without_gradient_are_timed_forward_only(tmp_path):
    words = ["--quick", "--cpu", "--no-compile", "--workload", "maps", "--workload", "loss", "--out", str(tmp_path)]
    micro.main(words)
    rows = [row for row in read(tmp_path / "micro.csv") if row["metric"] == "time"]
    assert {row["mode"] for row in rows if row["kernel"] == "maps"} == {"forward"}
    assert {row["mode"] for row in rows if row["kernel"] == "loss"} == {"forward", "backward", "full"}


@pytest.mark.parametrize("name", sorted(available()))
def test_both_implementations_of_a_workload_agree(name):
    inputs = make_inputs(Setting(name, batch=2, side=16), torch.device("cpu"))
    ours, eager = (measure.tuple_of(form(inputs)) for form in (WORKLOADS[name].ours, WORKLOADS[name].eager))
    torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)


def test_uml_workloads_are_available():
    assert {"uml-paper", "uml-v2"} <= set(available())


def test_settings_beyond_the_time_limit_are_skipped_with_a_message(tmp_path, capsys):
    micro.main(["--quick", "--cpu", "--no-compile", "--seconds", "-1", "--out", str(tmp_path)])
    assert "skipped for lack of time" in capsys.readouterr().out
    assert read(tmp_path / "micro.csv") == []


def test_errors_of_the_loss_are_plotted_and_small(tmp_path):
    errors.draw(tmp_path / "errors.png", classes=[3])
    assert (tmp_path / "errors.png").stat().st_size > 10_000
    evidence, target = 1e4 * torch.rand(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    assert max(errors.largest_errors(errors.ours, evidence, target)) < 1e-5
    assert max(errors.largest_errors(errors.composed, evidence, target)) > 1e-4


def test_static_figures_are_printed_and_written(tmp_path, capsys):
    words = ["--quick", "--call", "evidential_sums", "--architecture", "sm_90", "--markdown"]
    static.main([*words, "--out", str(tmp_path / "static.csv")])
    rows = read(tmp_path / "static.csv")
    assert [row["kernel"] for row in rows] == ["evidential forward", "evidential backward"]
    assert all(int(row["registers"]) > 0 and float(row["instructions_per_pixel"]) > 10 for row in rows)
    assert capsys.readouterr().out.startswith("| call | kernel |")


def test_cpu_benchmark_compares_the_cpu_implementation_with_eager(tmp_path, monkeypatch, capsys):
    cpu.main(["--quick", "--out", str(tmp_path / "cpu.csv")])
    rows = read(tmp_path / "cpu.csv")
    assert tuple(rows[0]) == COLUMNS
    assert {row["provider"] for row in rows} == {"eager", "cpu"}
    assert {row["metric"] for row in rows} >= {"time", "memory"}
    assert "skipped: cpu compiled" in capsys.readouterr().out


def test_distance_maps_are_compared_with_scipy(tmp_path, capsys):
    pytest.importorskip("scipy")
    import distances

    distances.main(["--quick", "--cpu", "--out", str(tmp_path)])
    rows = read(tmp_path / "distances.csv")
    assert tuple(rows[0]) == COLUMNS
    assert {row["provider"] for row in rows} >= {"ours", "scipy"}
    errors = [float(row["p50"]) for row in rows if row["metric"] == "largest difference from SciPy"]
    assert len(errors) == 4
    assert max(errors) < 1e-6
    assert "of scipy" in capsys.readouterr().out


@NO_GPU
@pytest.mark.parametrize("command", [tune, gpu_check])
def test_commands_that_need_a_gpu_report_it_in_one_line(command, capsys):
    assert command.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
