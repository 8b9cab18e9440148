"""Everything that only a GPU can tell, in one command of less than 9 minutes: `make gpu-check PYTHON=python3`.

Needs torch and Triton, no network and no installation of this project. First the kernels' tests on the GPU, then the
microbenchmarks, then the tuner; then, where DeepSpeed can be imported, the loss within a training step, and 50 steps of
training with each ZeRO stage. Every part has its share of the time; what did not fit is named.
"""

import argparse
import csv
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch

from report import COLUMNS, RESULTS

ROOT = Path(__file__).parents[2]
BENCH = Path(__file__).parent
PATHS = (ROOT, ROOT / "kernels", ROOT / "shards", BENCH, ROOT / "tests" / "support", ROOT / "tests" / "benchmarks")
FOR_TESTS = ("pytest", "mpmath", "hypothesis")
FOR_TRAINING = ("deepspeed", "webdataset", "pydantic", "tomli_w", "prometheus_client", "safetensors", "sklearn", "PIL")
BRING = (
    "On a machine with a network: pip download --no-deps -d wheels {}\n"
    "(and what they need in turn). Here: pip install --no-index --no-deps --target site wheels/*.whl\n"
    "then the same command with PYTHONPATH=site before it."
)


class Part(NamedTuple):
    """One part of the check.

    Attributes:
        title: printed before it.
        command: arguments for Python.
        seconds: after which it is stopped.
        needs: modules without which it is left out.
        interpreted: whether a rehearsal runs the kernels in Triton's interpreter.
    """

    title: str
    command: list[str]
    seconds: float
    needs: Sequence[str] = ()
    interpreted: bool = False


def parts(out: Path, rehearse: bool, seconds: float) -> list[Part]:
    """All of them, in the order of their weight."""
    tests = ["-m", "pytest", "tests/kernels", "-q", "-x", "-p", "no:cacheprovider"]
    tests += ["--ignore=tests/kernels/test_bench.py", "--ignore=tests/kernels/test_compile.py"]
    micro = [str(BENCH / "micro.py"), "--out", str(out)]
    tune = [str(BENCH / "tune.py"), "--brief"]
    share = [str(BENCH / "loss_share.py"), "--out", str(out / "loss_share.csv")]
    train = [str(BENCH / "trainer_check.py"), "--out", str(out / "trainer.csv")]
    if rehearse:
        tests = ["-m", "pytest", "tests/test_repository.py", "-q", "-p", "no:cacheprovider", "--collect-only"]
        micro += ["--quick", "--no-compile", "--workload", "mutual", "--workload", "opinion"]
        tune += ["--rehearse", "--kernel", "evidential_forward"]
        small = ["--profile", "compact", "--width", "0.0625", "--size", "32", "--batch", "2"]
        share += [*small, "--rounds", "2"]
        train += [*small, "--steps", "2", "--stages", "1"]
    else:
        micro += ["--seconds", str(0.2 * seconds)]
        tune += ["--seconds", str(0.1 * seconds)]
        train += ["--seconds", str(0.15 * seconds)]
    return [
        Part("tests of the kernels", tests, 0.25 * seconds, FOR_TESTS),
        Part("microbenchmarks", micro, 0.3 * seconds),
        Part("tiles", tune, 0.15 * seconds, interpreted=True),
        Part("the loss within a step", share, 0.1 * seconds, FOR_TRAINING),
        Part("training", train, 0.2 * seconds, FOR_TRAINING),
    ]


def environment(part: Part, rehearse: bool) -> dict[str, str]:
    """Of every part: this checkout's packages first, those of the machine after them."""
    known = [str(path) for path in PATHS] + [path for path in [os.environ.get("PYTHONPATH")] if path]
    changed = {"PYTHONPATH": os.pathsep.join(known), "UML_KERNELS_DEVICE": "cpu" if rehearse else "cuda"}
    return os.environ | changed | ({"TRITON_INTERPRET": "1"} if rehearse and part.interpreted else {})


def run(part: Part, rehearse: bool, seconds: float) -> str:
    """What came of it, in a few words."""
    missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
    print(f"\n=== {part.title}", flush=True)
    if missing:
        print(f"left out: {', '.join(missing)} missing.\n" + BRING.format(" ".join(missing)))
        return f"left out: {', '.join(missing)} missing"
    limit = min(part.seconds, seconds)
    if limit < 10 and not rehearse:
        return "left out for lack of time"
    start = perf_counter()
    try:
        # The tests' own settings are in pyproject.toml, which pytest finds from the root.
        done = subprocess.run(
            [sys.executable, *part.command], cwd=ROOT, env=environment(part, rehearse), timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    outcome = "done" if done.returncode == 0 else f"FAILED with exit code {done.returncode}"
    return f"{outcome}, {perf_counter() - start:.0f} s"


def gather(out: Path, target: Path) -> int:
    """All rows of the parts' files in one; returns their number."""
    rows: list[dict[str, str]] = []
    for name in ("micro.csv", "loss_share.csv", "trainer.csv"):
        if (out / name).exists():
            with (out / name).open(newline="", encoding="utf-8") as file:
                rows += list(csv.DictReader(file))
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Run all parts; 0 where each one that could run did, 1 where one failed, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=520, help="of all parts together")
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny maps on the CPU: whether the command itself works"
    )
    parser.add_argument("--without-training", action="store_true", help="the kernels alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.csv and the PNG files")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not chosen.rehearse:
        print("error: no GPU: this measures on one (--rehearse tries the command itself on the CPU)", file=sys.stderr)
        return 2
    start, outcomes = perf_counter(), {}
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(Path(folder), chosen.rehearse, chosen.seconds)[: 3 if chosen.without_training else None]:
            outcomes[part.title] = run(part, chosen.rehearse, chosen.seconds - (perf_counter() - start))
        count = gather(Path(folder), chosen.out / "gpu.csv")
        pictures = sorted(Path(folder).glob("*.png"))
        for picture in pictures:
            (chosen.out / picture.name).write_bytes(picture.read_bytes())
    say("\n=== all")
    for title, outcome in outcomes.items():
        say(f"{title:24} {outcome}")
    say(f"{count} figures in {chosen.out / 'gpu.csv'}, {len(pictures)} pictures")
    return 1 if any("FAILED" in outcome for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
