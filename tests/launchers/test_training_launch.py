"""Real training runs, started as users start them."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from broken_shards import restate_digests
from worlds import free_port

pytestmark = pytest.mark.launch

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"
SETTINGS = ["model.width=0.0625", "train.log_every=1", "data.workers=0", "train.validate_every=1000"]


DEEPSPEED = ("-m", "deepspeed.launcher.runner", "--master_port", str(free_port()))


def start(launcher: tuple[str, ...], shards: Path, run: Path, *words: str) -> subprocess.Popen[str]:
    """Start `deepspeed launchers/train.py --num_gpus 2 ...` or `python launchers/train.py --num_gpus 2 ...`."""
    settings = [f"streams.train.shards={shards}", "streams.train.count=8", *SETTINGS, *words]
    command = [sys.executable, *launcher, str(TRAIN), "--num_gpus", "2", "--cpu", "--run", str(run), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run.parent)


def scrape(address: str, name: str) -> float:
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])


def wait_for_more(address: str, steps: float) -> None:
    """Wait until the counter of steps has increased, and assert that it does."""
    deadline = time.monotonic() + 30
    while scrape(address, "uml_steps_total") <= steps:
        assert time.monotonic() < deadline, f"{address} stays at {steps} steps"
        time.sleep(0.05)


def children_left(run: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(run) in " ".join(p.info["cmdline"] or [])]


def shared_memory() -> set[str]:
    """The names of shared memory of torch and DeepSpeed."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {name for name in names if "torch" in name or "deepspeed" in name}


def test_deepspeed_train_num_gpus_2_trains_on_two_workers_and_shows_progress(partly_known, tmp_path):
    run = tmp_path / "run"
    before = shared_memory()
    port = free_port()
    process = start(DEEPSPEED, partly_known, run, "train.steps=25", f"metrics.port={port}", "zero.stage=2")
    assert process.stdout is not None
    lines, addresses, first = [], [], []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"metrics of 2 ranks: (\S+) to (\S+)", line):
            addresses = list(found.groups())
        if line.startswith("step ") and not first:
            first = [scrape(address, "uml_steps_total") for address in addresses]
            for address, steps in zip(addresses, first, strict=True):
                wait_for_more(address, steps)
    errors = process.stderr.read() if process.stderr else ""
    assert process.wait(60) == 0, "".join(lines) + errors
    assert len(first) == 2
    assert min(first) > 0
    assert "".join(lines).count("2 CPU processes, ZeRO 2") == 1
    assert re.search(r"^done: .* peak memory \d+\.\d+ GB", "".join(lines), re.MULTILINE)
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 26))
    assert 0 <= records[-1]["validation_dice"] <= 1
    assert (run / "checkpoints" / "latest").read_text() == "step-000025\n"
    assert children_left(run) == []
    left = shared_memory() - before
    deadline = time.monotonic() + 60
    while left and time.monotonic() < deadline:  # what belongs to other tests goes with them
        time.sleep(0.1)
        left &= shared_memory()
    assert left == set()


def test_bad_sample_ends_all_ranks_with_one_line_and_exit_code_2(tmp_path):
    from runs import make_partly_known

    shards = make_partly_known(tmp_path / "shards", samples=40)
    tar = shards / "train" / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    jpeg = data.index(b"\xff\xd8\xff")
    data[jpeg : jpeg + 64] = bytes(64)
    tar.write_bytes(data)
    restate_digests(shards / "train")
    run = tmp_path / "run"
    process = start((), shards, run, "train.steps=20", "metrics.enabled=false")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2, output + errors
    found = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(found) == 1
    assert "shard-000001.tar" in found[0]
    assert "Traceback" not in errors
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], "shard-000001.tar" in status["reason"]) == ("failed", True)
    assert children_left(run) == []
