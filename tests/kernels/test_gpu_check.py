"""Tests of gpu_check.py: time limits, crashes, resumption, and the files of results."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from time import sleep
from xml.etree import ElementTree

import pytest

if os.environ.get("TRITON_INTERPRET", "") == "1":
    pytest.skip("the check starts the interpreter itself", allow_module_level=True)
pytest.importorskip("triton")
pytest.importorskip("matplotlib")

import gpu_check
import kernel_tests
import plan
import processes
from processes import run_limited, take, work_together
from report import COLUMNS, RESULTS, read_rows

ROOT = Path(__file__).parents[2]
FILES = {"gpu.csv", "micro.csv", "tune.csv", "tune.txt", "summary.txt", "micro_time.png", "micro_roofline.png"}


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_command_that_times_out_is_killed_with_its_children(tmp_path, capsys):
    program = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        print("child", child.pid, flush=True)
        time.sleep(60)
    """
    log = tmp_path / "log"
    words = [sys.executable, "-c", textwrap.dedent(program)]
    assert run_limited(words, 2.0, log, tmp_path, os.environ) is None
    assert log.read_text() == capsys.readouterr().out
    child = int(log.read_text().split()[1])
    for _ in range(50):
        if not is_running(child):
            break
        sleep(0.1)
    assert not is_running(child)


def test_finished_command_returns_its_exit_code(tmp_path):
    assert run_limited([sys.executable, "-c", "raise SystemExit(4)"], 30, tmp_path / "log", tmp_path, os.environ) == 4


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 2), ("max 100000", 8), ("10000 100000", 1)])
def test_number_of_cores_respects_the_container_quota(tmp_path, monkeypatch, quota, expected):
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(processes, "QUOTA", tmp_path / "cpu.max")
    assert processes.cores() == 8
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert processes.cores() == expected


def test_task_is_claimed_once(tmp_path):
    assert [take(tmp_path, 1), take(tmp_path, 1), take(tmp_path, 2)] == [True, False, True]


def test_crashing_process_loses_only_its_own_task(tmp_path):
    program = f"""
        import os
        from pathlib import Path
        from processes import take
        folder = Path({str(tmp_path)!r})
        for task in range(5):
            if take(folder / "claims", task):
                if task == 1:
                    os._exit(9)
                (folder / f"done-{{task}}").touch()
    """
    words = [sys.executable, "-c", textwrap.dedent(program)]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert work_together(words, 1, 60, tmp_path / "claims", tmp_path / "logs", paths)
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0", "done-2", "done-3", "done-4"]


def test_processes_that_crash_at_start_are_not_restarted_repeatedly(tmp_path):
    words = [sys.executable, "-c", "print('started'); raise SystemExit(7)"]
    work_together(words, 2, 60, tmp_path / "claims", tmp_path / "logs", os.environ)
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert 2 <= logs.count("started") <= 3


def run_tests(folder: Path, program: str, seconds: float, device: str = "cpu") -> tuple[int, dict[str, str], str]:
    """Run a test file and return the exit code, the outcomes by test, and the output."""
    (folder / "test_some.py").write_text(textwrap.dedent(program))
    (folder / "pytest.ini").write_text("[pytest]\n")
    words = [kernel_tests.__file__, "--out", str(folder / "out"), "--seconds", str(seconds), "--processes", "2"]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "UML_KERNELS_DEVICE": device}
    paths["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, *words, str(folder / "test_some.py")],
        capture_output=True, text=True, check=False, env=paths, cwd=folder,
    )  # fmt: skip
    results = kernel_tests.results_of(folder / "out")
    outcomes = {name.rpartition("::")[2]: one["outcome"] for name, one in results.items()}
    return done.returncode, outcomes, done.stdout + done.stderr


def test_processes_share_the_tests_and_record_all_results(tmp_path):
    program = """
        import os, pytest
        def test_passes(): pass
        def test_crashes(): os._exit(11)
        def test_fails(): assert 1 == 2
        def test_skips(): pytest.skip("no reason")
        @pytest.mark.parametrize("n", range(4))
        def test_follows(n): pass
    """
    code, outcomes, output = run_tests(tmp_path, program, 100)
    assert code == 1
    expected = {"test_passes": "passed", "test_crashes": "started", "test_fails": "failed", "test_skips": "skipped"}
    assert outcomes == expected | {f"test_follows[{n}]": "passed" for n in range(4)}
    assert "8 tests: 6 ran, 5 passed, 1 failed; 1 skipped, 1 crashed or stopped, 0 did not run" in output
    suite = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "8", "failures": "1", "errors": "1", "skipped": "1",
    }  # fmt: skip
    assert "assert 1 == 2" in "".join(suite.itertext())


def test_stopped_tests_are_a_failure(tmp_path):
    program = """
        import time
        def test_passes(): pass
        def test_hangs(): time.sleep(300)
        def test_hangs_too(): time.sleep(300)
        def test_waits(): pass
    """
    code, outcomes, output = run_tests(tmp_path, program, 15)
    assert code == 1
    assert outcomes == {
        "test_passes": "passed", "test_hangs": "started", "test_hangs_too": "started", "test_waits": "not run",
    }  # fmt: skip
    assert "2 crashed or stopped, 1 did not run; stopped after 15 s" in output


def test_process_that_lost_its_gpu_is_replaced(tmp_path):
    """Without a GPU every access fails, as after an illegal address."""
    program = """
        def test_fails(): raise RuntimeError("an illegal memory access was encountered")
        def test_follows(): pass
    """
    code, outcomes, _ = run_tests(tmp_path, program, 60, device="cuda")
    assert (code, outcomes) == (1, {"test_fails": "failed", "test_follows": "passed"})
    logs = "".join(path.read_text() for path in (tmp_path / "out").glob("worker-*.log"))
    assert "the GPU accepts no more work from this process" in logs


def test_import_error_is_a_failure(tmp_path):
    code, outcomes, output = run_tests(tmp_path, "import no_such_module_here", 60)
    assert code == 1
    assert list(outcomes.values()) == ["failed"]
    assert "no_such_module_here" in output


def test_gpu_only_tests_run_first():
    files = kernel_tests.files()
    assert files[0] == "tests/kernels/test_on_gpu.py"
    assert "tests/kernels/test_gpu_check.py" not in files
    assert len(files) >= 8


def part(program: str, **words) -> plan.Part:
    def command(out: Path, scratch: Path, seconds: float) -> list[str]:
        return ["-c", textwrap.dedent(program)]

    return plan.Part("some", "some part", 1.0, command, **({"least": 0.0} | words))


@pytest.fixture
def check(tmp_path) -> gpu_check.Check:
    return gpu_check.Check(tmp_path, tmp_path / "scratch", rehearse=True, seconds=100)


def test_time_of_skipped_parts_is_given_to_the_others():
    first, second, third = (part("")._replace(weight=weight) for weight in (1.0, 1.0, 2.0))
    assert plan.seconds_of(first, [first, second, third], 100) == 25
    assert plan.seconds_of(first, [first, second], 100) == 50
    assert plan.seconds_of(second, [second], 80) == 80
    assert plan.seconds_of(second, [second], -3) == 0


def test_part_with_missing_modules_names_the_packages_to_install(check, monkeypatch, capsys):
    monkeypatch.setitem(plan.DISTRIBUTIONS, "no_such_module", "no-such-distribution")
    check.run_all([part("raise SystemExit(1)", needs=["no_such_module", "os"])])
    assert check.outcomes["some part"].text == "skipped: no-such-distribution missing"
    assert "pip download --no-deps -d wheels no-such-distribution\n" in capsys.readouterr().out
    assert check.good()
    assert [plan.DISTRIBUTIONS[name] for name in ("PIL", "pynvml")] == ["pillow", "nvidia-ml-py"]


def test_failed_or_stopped_part_makes_the_check_fail(check):
    assert check.run(part("raise SystemExit(1)"), 60) == (plan.FAILED, "FAILED with exit code 1, 0 s")
    assert check.run(part("import time; time.sleep(60)"), 1) == (plan.FAILED, "STOPPED after 1 s")
    check.note("good", check.run(part(""), 60))
    assert check.good()
    check.note("stopped", plan.Outcome(plan.FAILED, "STOPPED after 1 s"))
    assert not check.good()
    assert "STOPPED" in (check.out / "summary.txt").read_text()


def test_results_of_a_stopped_part_are_summarised(check):
    tests = check.out / "tests"
    tests.mkdir()
    (tests / "collected.json").write_text('["file.py::test_a", "file.py::test_b", "file.py::test_c"]')
    lines = ['{"test": "file.py::test_a", "outcome": "passed", "seconds": 1.0, "message": ""}', '{"test": "file.py::te']
    (tests / "results-1.jsonl").write_text("\n".join(lines))
    check.note("tests", plan.Outcome(plan.FAILED, "STOPPED after 1 s"))
    counted = "3 tests: 1 ran, 1 passed, 0 failed; 0 skipped, 0 crashed or stopped, 2 did not run"
    assert counted in (check.out / "summary.txt").read_text()
    assert ElementTree.parse(tests / "junit.xml").getroot()[0].get("errors") == "2"


def test_error_in_the_summary_does_not_end_the_check(check, capsys):
    (check.out / "micro.csv").write_text("no,such,columns\n1,2,3\n")
    check.run_all([part("print('still running')")])
    captured = capsys.readouterr()
    assert "still running" in captured.out
    assert "KeyError" in captured.err


def test_part_resumes_after_a_crash_and_counts_as_failed(check):
    program = "import os, sys; print('again' if '--resume' in sys.argv else os._exit(3), flush=True)"
    outcome = check.run(part(program, resumes=True), 60)
    assert (outcome.word, "GPU was lost" in outcome.text) == (plan.FAILED, True)
    assert (check.out / "logs" / "some.log").read_text() == "again\n"


def test_environment_variables_that_affect_results_are_not_inherited(tmp_path, monkeypatch):
    for name in gpu_check.NOT_INHERITED:
        monkeypatch.setenv(name, "1")
    given = gpu_check.environment(part("", interpreted=True), False, tmp_path)
    assert not set(gpu_check.NOT_INHERITED) & set(given)
    assert given["UML_KERNELS_DEVICE"] == "cuda"
    assert Path(given["TRITON_CACHE_DIR"]).parent == tmp_path
    rehearsed = gpu_check.environment(part("", interpreted=True), True, tmp_path)
    assert (rehearsed["UML_KERNELS_DEVICE"], rehearsed["TRITON_INTERPRET"]) == ("cpu", "1")


def chosen(out: Path | None, rehearse: bool):
    return gpu_check.argparse.Namespace(out=out, rehearse=rehearse)


def test_results_go_to_the_folder_in_the_variable_out(tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert gpu_check.folder_of(chosen(None, False)) == tmp_path / "out"


def test_unwritable_folder_does_not_end_the_check(tmp_path, capsys):
    (tmp_path / "file").touch()
    out = gpu_check.folder_of(chosen(tmp_path / "file" / "out", False))
    assert out.parent == Path(tempfile.gettempdir())
    assert "cannot be written" in capsys.readouterr().out
    shutil.rmtree(out)


def test_rehearsal_does_not_overwrite_results(tmp_path, capsys):
    assert gpu_check.main(["--rehearse", "--out", str(RESULTS)]) == 2
    (tmp_path / "summary.txt").touch()
    assert gpu_check.main(["--rehearse", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    out = gpu_check.folder_of(chosen(None, True))
    assert RESULTS not in (out, *out.parents)
    out.rmdir()


def test_other_files_in_the_folder_are_kept(tmp_path):
    """For example the project's root, whose tests/ and logs/ are not results of this command."""
    others = [tmp_path / name for name in ("tests/test_mine.py", "logs/training.log", "mine.begun", "micro_mine.png")]
    old = [tmp_path / name for name in ("gpu.csv", "micro_time.png", "tests/junit.xml", "logs/tests.log", "tune.begun")]
    for path in (*others, *old):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    gpu_check.clean(tmp_path)
    assert all(path.exists() for path in others)
    assert not any(path.exists() for path in old)


def assert_complete(out: Path) -> None:
    """Check that a rehearsal wrote every file that a run on a GPU writes, with rows."""
    assert {path.name for path in out.iterdir()} >= FILES
    rows = read_rows(out / "gpu.csv")
    assert tuple(rows[0]) == COLUMNS
    assert {row["metric"] for row in rows} >= {"time", "least time", "share of limit", "share of issue"}
    assert {row["limit"] for row in rows} >= {"memory", "issue", "memory only"}
    assert {row["provider"] for row in rows} >= {"ours", "eager", "compiled", "copy"}
    assert "evidential_forward" in (out / "tune.txt").read_text()
    results = kernel_tests.results_of(out / "tests")
    assert kernel_tests.are_good(results)
    assert {name.partition("::")[0] for name in results} == set(kernel_tests.files())
    assert {path.name for path in (out / "logs").iterdir()} >= {"tests.log", "micro.log", "tune.log", "pictures.log"}


def test_check_runs_as_a_rehearsal(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, gpu_check.__file__, "--rehearse", "--without-training", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(out)
    assert (out / "summary.txt").read_text().strip() in done.stdout


PACKAGES = (
    "torch==2.11.0", "triton==3.6.0", "numpy", "pytest", "mpmath", "hypothesis", "matplotlib", "tqdm", "pillow",
    "safetensors", "prometheus-client",
)  # fmt: skip


def environment_like_a_gpu_machine(folder: Path) -> Path:
    """Return the Python of an environment in a folder; create it unless it exists."""
    python = folder / "bin" / "python"
    if not python.exists():
        found = shutil.which("python3.12")
        runs = found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0
        subprocess.run([found if runs else sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


@pytest.mark.rehearsal
@pytest.mark.skipif(os.environ.get("UML_KERNELS_REHEARSAL") != "1", reason="takes minutes: UML_KERNELS_REHEARSAL=1")
def test_check_runs_as_a_rehearsal_in_a_gpu_machine_environment(tmp_path):
    """Run in a copy of the tracked files with the GPU machine's versions, without the project and DeepSpeed installed.

    The GPU machine has Python 3.12 and NumPy 2.5. If there is no python3.12 here, the environment uses this Python, and
    NumPy 2.4 if that is 3.11; Triton 3.6's interpreter fails with both. UML_KERNELS_REHEARSAL_ENV is the folder of the
    environment, which is created once and takes about 6 GB.
    """
    python = environment_like_a_gpu_machine(Path(os.environ.get("UML_KERNELS_REHEARSAL_ENV", tmp_path / "environment")))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tree, out = tmp_path / "tree", tmp_path / "out"
    for name in filter(None, listed.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = ["make", "gpu-check", f"PYTHON={python}", "ARGS=--rehearse"]
    # Results go to $OUT on that machine, but a rehearsal needs --out to avoid overwriting real ones
    command[-1] += f" --out {out}"
    done = subprocess.run(command, cwd=tree, env=known, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert_complete(out)
    assert "deepspeed, webdataset, pydantic, tomli-w, nvidia-ml-py missing" in (out / "summary.txt").read_text()
    assert not (tree / ".venv").exists()
