"""Tests of the benchmarks' logic without real timing: turns, failures, rows, limits, plots and tuning."""

import math
import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import pytest
import torch

if os.environ.get("TRITON_INTERPRET", "") == "1":
    pytest.skip("the benchmarks start the interpreter themselves", allow_module_level=True)
pytest.importorskip("triton")
pytest.importorskip("matplotlib")

import measure
import micro
import timing
import tune
from plots import draw
from plots import main as draw_file
from report import Progress, measured, read_rows, write_rows
from roofline import Demand, Machine, demands, least
from uml_kernels.table import TABLE, Tiles
from workloads import WORKLOADS, Setting

CPU = torch.device("cpu")
SMALL = Setting("mutual", batch=1, side=8)
QUICK = ["--quick", "--cpu", "--no-compile", "--no-pictures"]


def test_functions_are_timed_in_turns():
    order: list[str] = []
    functions = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.in_turns(functions, rounds=2, warm_up=1, device=CPU)
    assert order == ["a", "b"] * 3
    assert [len(values) for values in times.values()] == [2, 2]


def test_slow_function_gets_fewer_rounds():
    times = timing.in_turns({"a": lambda: None}, rounds=100, warm_up=2, device=CPU, seconds=0)
    assert len(times["a"]) == timing.FEWEST


def test_failing_function_is_named():
    with pytest.raises(timing.FunctionFailed, match="b") as failed:
        timing.in_turns({"a": lambda: None, "b": lambda: 1 / 0}, rounds=1, warm_up=0, device=CPU)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


@pytest.fixture
def cuda(monkeypatch) -> SimpleNamespace:
    """A fake GPU whose events are 10 ms apart; it records the burners' cycles, captures and replays."""
    seen = SimpleNamespace(cycles=[], capturing=False, replays=0)

    class Event:
        def __init__(self, enable_timing: bool) -> None: ...
        def record(self) -> None: ...
        def elapsed_time(self, end) -> float:
            return 10.0

    class Graph:
        def replay(self) -> None:
            seen.replays += 1

    @contextmanager
    def graph(cuda_graph, stream):
        seen.capturing = True
        yield
        seen.capturing = False

    def stream() -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda other: None)

    places = {
        "Event": Event, "_sleep": seen.cycles.append, "synchronize": lambda device=None: None, "CUDAGraph": Graph,
        "graph": graph, "Stream": stream, "current_stream": stream, "stream": lambda chosen: nullcontext(),
    }  # fmt: skip
    for name, value in places.items():
        monkeypatch.setattr(timing.torch.cuda, name, value)
    monkeypatch.setattr(timing, "CACHE_BYTES", 1024)
    return seen


def test_burner_outlasts_the_cpu_time_to_queue_a_call(cuda):
    timer = timing._GpuTimer(CPU)
    per_millisecond = timing.CALIBRATION / 10
    del cuda.cycles[:]
    for _ in range(3):
        assert timer.time("slow", lambda: sleep(0.01)) == 10.0
    timer.time("fast", lambda: None)
    # The first call, which may compile, does not count; from the third on the burner is long enough
    assert cuda.cycles[:2] == [int(timing.SHORTEST * per_millisecond)] * 2
    assert cuda.cycles[2] >= 1.5 * 10 * per_millisecond
    assert cuda.cycles[3] == int(timing.SHORTEST * per_millisecond)


def test_burner_never_shrinks_and_has_an_upper_limit():
    assert timing.burner(4.0, 1.0) == 6.0
    assert timing.burner(1.0, 6.0) == 6.0
    assert timing.burner(1000.0, 6.0) == timing.LONGEST


def test_call_runs_before_it_is_captured(cuda):
    calls = []
    replay = timing.captured(lambda: calls.append(cuda.capturing), timing.torch.cuda.Stream())
    assert calls == [False, False, True]
    replay()
    assert cuda.replays == 1


def test_functions_that_cannot_be_captured_have_no_row(cuda, monkeypatch, capsys):
    def captured(function, stream):
        captured.made.append(function)
        if len(captured.made) == 4:  # eager's forward, after our three modes
            raise RuntimeError("operation not permitted when stream is capturing")
        return function

    captured.made = []
    monkeypatch.setattr(measure, "captured", captured)
    note = lambda values, **words: words  # noqa: E731
    rows = list(measure._graphs(SMALL, CPU, 1, "", note))
    assert {row["provider"] for row in rows} == {"ours", "copy"}
    assert {row["metric"] for row in rows} == {"graph"}
    assert "a graph of eager is skipped: RuntimeError: operation not permitted" in capsys.readouterr().out


def replaced(monkeypatch, workload: str, **functions) -> None:
    monkeypatch.setitem(WORKLOADS, workload, WORKLOADS[workload]._replace(**functions))


def test_failing_provider_does_not_remove_the_other_rows(monkeypatch, capsys):
    eager, calls = WORKLOADS["mutual"].eager, []

    def failing(inputs):
        calls.append(1)
        if len(calls) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return eager(inputs)

    replaced(monkeypatch, "mutual", eager=failing)
    rows = list(measure.measure(SMALL, CPU, 5))
    assert {row["mode"] for row in rows if row["provider"] == "ours"} == {"forward", "backward", "full"}
    assert "eager" not in {row["provider"] for row in rows}
    assert "eager is skipped: OutOfMemoryError: out of memory" in capsys.readouterr().out


def test_failing_kernel_gives_an_error_exit_code_and_keeps_other_rows(monkeypatch, tmp_path, capsys):
    replaced(monkeypatch, "opinion", ours=lambda inputs: 1 / 0)
    words = ["--workload", "opinion", "--workload", "maps", "--out", str(tmp_path)]
    assert micro.main([*QUICK, *words]) == 1
    assert {row["kernel"] for row in read_rows(tmp_path / "micro.csv")} == {"maps"}
    assert "FAILED: opinion 2 x 3 x 32² float32 first" in capsys.readouterr().out


def test_wrong_result_gives_an_error_exit_code(monkeypatch, tmp_path, capsys):
    ours = WORKLOADS["opinion"].ours
    replaced(monkeypatch, "opinion", ours=lambda inputs: tuple(1.01 * one for one in ours(inputs)))
    assert micro.main([*QUICK, "--workload", "opinion", "--out", str(tmp_path)]) == 1
    assert "result 0 differs from eager's by 0.01" in capsys.readouterr().err


def test_settings_that_crashed_are_skipped_on_resume(tmp_path):
    words = [*QUICK, "--workload", "maps", "--out", str(tmp_path)]
    assert micro.main(words) == 0
    before = read_rows(tmp_path / "micro.csv")
    begun = (tmp_path / "micro.begun").read_text().splitlines()
    assert len(begun) == 2
    (tmp_path / "micro.begun").write_text(begun[0] + "\n")
    assert micro.main([*words, "--resume"]) == 0
    after = read_rows(tmp_path / "micro.csv")
    assert len(after) == len(before) + len(before) // 2
    assert Progress(tmp_path / "micro.begun", resume=False).begin(begun[0])


def test_rows_are_unchanged_by_writing_and_reading(tmp_path):
    words = {name: 3 for name in ("classes", "batch", "height", "width")}
    rows = [measured(CPU, [1.0, 2.0, 4.0], kernel="mutual", limit="issue", **words)]
    write_rows(tmp_path / "rows.csv", rows)
    (row,) = read_rows(tmp_path / "rows.csv")
    assert (row["p50"], row["classes"], row["limit"]) == (2.0, 3, "issue")
    assert read_rows(tmp_path / "none.csv") == []
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_limit_of_a_kernel_is_its_slowest_resource():
    speeds = Machine(1000.0, 1000.0, 1000.0)
    one = least([Demand("a", False, 2.0, 3.0, 5.0)], speeds)
    assert (one.milliseconds, one.limit) == (5.0, "issue")
    assert one.by_limit == {"memory": 2.0, "MUFU": 3.0, "issue": 5.0}
    unknown = least([Demand("b", False, 7.0, math.nan, math.nan)], speeds)
    assert (unknown.milliseconds, unknown.limit) == (7.0, "memory only")
    both = least([Demand("a", False, 2.0, 3.0, 5.0), Demand("b", True, 4.0, 1.0, 1.0)], speeds)
    # The launches are consecutive: the slowest limit of each counts, not the slowest of the sums
    assert (both.milliseconds, both.limit, both.by_limit["memory"]) == (9.0, "issue", 6.0)


def test_demands_count_the_bytes_and_instructions_of_a_workload():
    needed, pixels = demands(Setting("mutual", 2, side=64), "sm_90"), 8 * 64 * 64
    # Each pass reads the logits and the target once; backward also writes the gradient
    for backward, least_bytes in ((False, 9), (True, 17)):
        found = [one for one in needed if one.backward == backward]
        assert least_bytes * pixels <= sum(one.bytes for one in found) <= 1.3 * least_bytes * pixels
        assert sum(one.issued for one in found) > sum(one.special for one in found) > 0


def test_shares_contain_the_limit_and_the_kernels():
    machine, times = Machine(1000.0, 1000.0, 1000.0), [10.0]
    needed = [Demand("evidential forward", False, 2.0, 3.0, 5.0)]
    rows = list(measure._shares(lambda values, **words: words | {"p": values}, "forward", times, needed, machine))
    shares = {row["metric"]: row["p"] for row in rows if row["unit"] == "1"}
    assert shares == {
        "share of limit": [0.5], "share of memory": [0.2], "share of MUFU": [0.3], "share of issue": [0.5],
    }  # fmt: skip
    assert {row["limit"] for row in rows} == {"issue"}
    assert {row["provider"] for row in rows if row["metric"] == "least time"} == {"ours", "evidential forward"}


def rows_to_draw(metrics) -> list[dict]:
    words = {
        "kernel": "mutual", "classes": 3, "dtype": "float32", "layout": "first", "batch": 1, "height": 8, "width": 8,
        "mode": "full", "unit": "", "limit": "issue",
    }  # fmt: skip
    return [
        measured(CPU, [1.0, 2.0], **words, provider=provider, metric=metric)
        for provider in ("ours", "eager")
        for metric in metrics
    ]


def test_all_measured_metrics_are_plotted(tmp_path):
    rows = rows_to_draw(["time", "graph", "memory", "share of limit"])
    assert len(draw(rows, tmp_path)) == len(list(tmp_path.glob("*.png"))) == 5


def test_results_of_a_stopped_run_are_plotted(tmp_path, capsys):
    rows = [row for row in rows_to_draw(["time"]) if row["provider"] == "ours"]
    write_rows(tmp_path / "micro.csv", rows)
    assert draw_file([str(tmp_path / "micro.csv"), "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.glob("*.png")] == ["micro_time.png"]
    assert draw_file([str(tmp_path / "none.csv"), "--out", str(tmp_path)]) == 0
    assert "the file has no results" in capsys.readouterr().out


def test_tuning_restores_the_table():
    before = TABLE["evidential_forward"]
    with tune.only("evidential_forward", Tiles(64, 1, 2)):
        assert [row.tiles for row in TABLE["evidential_forward"]["any"]] == [Tiles(64, 1, 2)]
    assert TABLE["evidential_forward"] == before


@pytest.mark.parametrize("kernel", sorted(set(tune.TUNED) & set(TABLE)))
def test_candidates_are_the_present_tiles_and_their_neighbours(kernel):
    for setting in tune.settings(kernel, brief=True):
        found = tune.candidates(kernel, setting)
        assert found[0] == tune.present(kernel, setting)
        assert 5 <= len(found) <= 13
        assert len({tune._launched(kernel, setting, one) for one in found}) == len(found)


def test_candidates_start_from_the_rows_of_the_architecture(monkeypatch):
    rows = {"sm_90": (tune.Row(16, Tiles(64, 1, 2)),), **TABLE["opinion_forward"]}
    monkeypatch.setitem(TABLE, "opinion_forward", rows)
    assert tune.present("opinion_forward", Setting("opinion"), "sm_90") == Tiles(64, 1, 2)
    assert tune.present("opinion_forward", Setting("opinion"), "sm_80") != Tiles(64, 1, 2)


def test_printed_rows_can_be_pasted_into_the_table():
    row = tune.row_of(next(tune.settings("evidential_forward", True)), Tiles(512, 4, 4))
    assert row == "Row(3, Tiles(512, 4, 4), False, 4)"
    # In the table, the classes of features are their channels
    row = tune.row_of(next(tune.settings("gated_forward", True)), Tiles(512, 4, 4))
    assert row == "Row(64, Tiles(512, 4, 4), False, 4)"


def test_tuner_writes_each_row_immediately_and_prefers_the_first_of_the_fastest(tmp_path, capsys):
    results, setting = tune.Results(tmp_path, False, CPU), Setting("opinion")
    times = {Tiles(512, 1, 4): 1.5, Tiles(256, 1, 4): 1.01, Tiles(1024, 1, 4): 1.0}
    results.add("opinion_forward", setting, times)
    assert capsys.readouterr().out.startswith("opinion_forward: Row(3, Tiles(256, 1, 4), False, 4),  # 1.0100 ms")
    assert len(tune_rows(tmp_path)) == 3
    more = tune.Results(tmp_path, True, CPU)
    more.add("opinion_forward", setting._replace(dtype="bfloat16"), times)
    assert len(tune_rows(tmp_path)) == 6
    text = (tmp_path / "tune.txt").read_text()
    pasted = eval("{" + text + "}", {"Row": tune.Row, "Tiles": Tiles})
    assert [row.bytes for row in pasted["opinion_forward"]["any"]] == [4, 2]


def tune_rows(folder: Path) -> list[str]:
    return (folder / "tune.csv").read_text().splitlines()[1:]


def test_tiles_that_change_the_result_are_detected():
    one, other = (torch.ones(3), torch.arange(4.0)), (torch.ones(3), torch.tensor([0.0, 1.0, 2.0, 3.3]))
    assert tune.agree(one, one)
    assert not tune.agree(one, other)
    assert not tune.agree(one, (torch.ones(3), torch.full((4,), math.nan)))
