"""Runs all tests and measurements that need a GPU in less than 9 minutes: `make gpu-check PYTHON=python3`.

It needs torch and Triton, but no network and no installation of this project. It runs the kernels' tests on the GPU,
the microbenchmarks and the tuner; then, if DeepSpeed can be imported, the loss within a training step and 50 steps of
training with each ZeRO stage. The parts that can run share the time, and each is stopped at its own deadline. Results,
logs and summary.txt are written to --out as soon as they exist. --rehearse runs the same plan on tiny maps on the CPU.
"""

import argparse
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import kernel_tests
from machine import describe
from plan import FAILED, OK, SKIPPED, Outcome, Part, missing, parts, pictures, seconds_of
from processes import DEVICE_LOST, run_limited
from report import RESULTS, default_folder, read_rows, write_rows

ROOT = Path(__file__).parents[2]
BENCH = Path(__file__).parent
PATHS = (ROOT, ROOT / "kernels", ROOT / "shards", BENCH, ROOT / "tests" / "support", ROOT / "tests" / "benchmarks")
NOT_INHERITED = ("TRITON_INTERPRET", "UML_KERNELS_DEBUG", "UML_KERNELS_COMPILE", "PYTEST_ADDOPTS", "OUT")
"""Environment variables that would affect the results."""

RESERVE = 25.0
"""Seconds reserved for the plots and the summary."""

ATTEMPTS = 5
"""Maximum number of runs of a part that can resume after a crash."""

TABLES = ("micro.csv", "distances.csv", "loss_share.csv", "trainer.csv")
"""Files with the same columns, which are merged into gpu.csv."""

OTHERS = ("gpu.csv", "tune.csv", "tune.txt", "tune.begun", "micro.begun")
PICTURES = ("time", "speed_up", "graphs", "memory", "roofline")
"""Other files that the parts write to the folder of the results."""

INSTALL = (
    "To install them, run on a machine with a network: pip download --no-deps -d wheels {}\n"
    "(and likewise for their dependencies). Here: pip install --no-index --no-deps --target site wheels/*.whl\n"
    "Then repeat this command with PYTHONPATH=site before it."
)


def environment(part: Part, rehearse: bool, scratch: Path) -> dict[str, str]:
    """Return the environment of a part: this checkout's packages before the machine's, and separate caches."""
    known = [str(path) for path in PATHS] + [path for path in [os.environ.get("PYTHONPATH")] if path]
    kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    changed = {
        "PYTHONPATH": os.pathsep.join(known),
        "PYTHONUNBUFFERED": "1",
        "UML_KERNELS_DEVICE": "cpu" if rehearse else "cuda",
        # The checkout may be read-only and the home folder slow, so all caches are local
        "PYTHONDONTWRITEBYTECODE": "1",
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "MPLCONFIGDIR": str(scratch / "matplotlib"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
    }
    if rehearse:
        changed |= {"CUDA_VISIBLE_DEVICES": ""} | ({"TRITON_INTERPRET": "1"} if part.interpreted else {})
    return kept | changed


class Check:
    """One run of all parts.

    Args:
        out: folder of the results.
        scratch: folder of caches, shards and runs.
        rehearse: whether to run on tiny maps on the CPU.
        seconds: time limit of all parts together.
    """

    def __init__(self, out: Path, scratch: Path, rehearse: bool, seconds: float) -> None:
        self.out, self.scratch, self.rehearse = out, scratch, rehearse
        self.end = perf_counter() + seconds
        self.outcomes: dict[str, Outcome] = {}
        self.machine = describe()
        (out / "logs").mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Return the seconds until the parts must have ended."""
        return self.end - RESERVE - perf_counter()

    def run_all(self, every: Sequence[Part]) -> None:
        """Run the parts, each for its share of the remaining time, and plot the results."""
        waiting = [part for part in every if not missing(part)]
        for part in every:
            limit = seconds_of(part, waiting, self.left()) if part in waiting else 0.0
            self.note(part.title, self.run(part, limit))
            waiting = [one for one in waiting if one is not part]
        self.note("pictures", self.run(pictures(), RESERVE - 5))

    def run(self, part: Part, limit: float) -> Outcome:
        """Run one part; after a crash, resume it behind the crashed task if possible."""
        if names := missing(part):
            print(f"\n=== {part.title}\nskipped: {', '.join(names)} missing.\n{INSTALL.format(' '.join(names))}")
            return Outcome(SKIPPED, f"skipped: {', '.join(names)} missing")
        print(f"\n=== {part.title}, {limit:.0f} s at most", flush=True)
        if limit < part.least and not self.rehearse:
            return Outcome(FAILED, "skipped for lack of time")
        start, codes = perf_counter(), []
        while not codes or (part.resumes and codes[-1] not in (0, 1, 2) and len(codes) < ATTEMPTS):
            rest = limit - (perf_counter() - start)
            if codes and rest < part.least:
                break
            words = [*part.command(self.out, self.scratch, rest), *(["--resume"] if codes else [])]
            log = self.out / "logs" / f"{part.name}.log"
            # Run in the root, where pytest finds the settings in pyproject.toml
            code = run_limited(
                [sys.executable, *words], rest, log, ROOT, environment(part, self.rehearse, self.scratch)
            )
            codes.append(code)
            if code is None:
                return Outcome(FAILED, f"STOPPED after {limit:.0f} s")
        wrong = [code for code in codes if code != 0]
        took = f"{perf_counter() - start:.0f} s"
        if not wrong:
            return Outcome(OK, f"done, {took}")
        lost = " (the GPU was lost)" if DEVICE_LOST in wrong else ""
        return Outcome(FAILED, f"FAILED with exit code {', '.join(map(str, wrong))}{lost}, {took}")

    def note(self, title: str, outcome: Outcome) -> None:
        """Record an outcome, and write all results so far."""
        self.outcomes[title] = outcome
        try:
            self.gather()
            (self.out / "summary.txt").write_text(self.summary() + "\n", encoding="utf-8")
        except Exception:  # such as a full disk: the other parts can still run and print
            traceback.print_exc()

    def gather(self) -> None:
        """Merge the rows of all parts, and write the test results as junit.xml, even if the tests were stopped."""
        if results := kernel_tests.results_of(self.out / "tests"):
            kernel_tests.write_junit(results, self.out / "tests" / "junit.xml")
        rows: list[dict[str, Any]] = []
        for name in TABLES:
            rows += read_rows(self.out / name)
        write_rows(self.out / "gpu.csv", rows)

    def summary(self) -> str:
        """Return the machine, the outcome of each part, and the numbers of tests, figures and plots as text."""
        lines = [self.machine, ""]
        lines += [f"{title:24} {outcome.text}" for title, outcome in self.outcomes.items()]
        results = kernel_tests.results_of(self.out / "tests")
        lines += [kernel_tests.count(results)] if results else []
        pictures = sorted(path.name for path in self.out.glob("*.png"))
        rows = len(read_rows(self.out / "gpu.csv"))
        lines.append(f"{rows} figures in {self.out / 'gpu.csv'}, {len(pictures)} pictures")
        return "\n".join(lines)

    def good(self) -> bool:
        """Return whether every part that could run finished without an error."""
        return all(outcome.word != FAILED for outcome in self.outcomes.values())


def folder_of(chosen: argparse.Namespace) -> Path:
    """Create and return the folder of the results; a temporary folder if it cannot be written.

    Raises:
        ValueError: a rehearsal would overwrite results.
    """
    if chosen.out is None and chosen.rehearse:
        return Path(tempfile.mkdtemp(prefix="gpu-check-rehearsal-"))
    out = (chosen.out or default_folder()).absolute()
    if chosen.rehearse and (out.resolve() == RESULTS.resolve() or (out / "summary.txt").exists()):
        raise ValueError(f"a rehearsal would overwrite the results in {out}: choose another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "summary.txt").write_text("", encoding="utf-8")
    except OSError as error:
        fallback = Path(tempfile.mkdtemp(prefix="gpu-check-"))
        print(f"{out} cannot be written ({error.strerror}): results go to {fallback}")
        out = fallback
    return out


def clean(out: Path) -> None:
    """Remove the results of an earlier run, so that they cannot be mistaken for new ones; keep all other files."""
    logs = [f"logs/{part.name}.log" for part in (*parts(rehearse=False, training=True), pictures())]
    tests = [f"tests/{name}" for name in ("junit.xml", *kernel_tests.WRITTEN)]
    for pattern in (*TABLES, *OTHERS, *(f"micro_{name}.png" for name in PICTURES), *logs, *tests):
        for path in out.glob(pattern):
            path.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts.

    Returns:
        The exit code: 0 if all parts that could run passed, 1 if one failed or was stopped, 2 for wrong arguments or
        without a GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=500, help="time limit of all parts together")
    parser.add_argument("--rehearse", action="store_true", help="run the same plan on tiny maps on the CPU")
    parser.add_argument("--without-training", action="store_true", help="run only the parts about the kernels")
    parser.add_argument("--out", type=Path, help="folder of all results; default: $OUT, or kernels/bench/results")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not chosen.rehearse:
        print("error: no GPU found: use a machine with one, or test this command with --rehearse", file=sys.stderr)
        return 2
    try:
        out = folder_of(chosen)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    clean(out)
    # Exit normally on SIGTERM, so that the running part is stopped too
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        check = Check(out, Path(folder), chosen.rehearse, chosen.seconds)
        print(check.machine, flush=True)
        check.run_all(parts(chosen.rehearse, not chosen.without_training))
    print(
        f"\n=== summary\n{check.summary()}\n"
        + ("all parts that could run passed" if check.good() else "FAILED: not all parts that could run passed"),
        flush=True,
    )
    return 0 if check.good() else 1


if __name__ == "__main__":
    sys.exit(main())
