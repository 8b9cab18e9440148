"""Runs the real launcher: arguments after the script's name start a world, which leaves nothing behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.launch

SCRIPT = """
import argparse
import sys
from uml_dist.errors import UmlError
from uml_dist.launch import ensure_world, enter_world, exit_with_error, script_arguments
import os

parser = argparse.ArgumentParser()
parser.add_argument("--num_gpus", type=int)
parser.add_argument("--code", type=int, default=0)
arguments = parser.parse_args(script_arguments(sys.argv, os.environ))
try:
    ensure_world(arguments.num_gpus, cpu=True)
except UmlError as error:
    exit_with_error(error)
world = enter_world()
import deepspeed
import torch

deepspeed.init_distributed(verbose=False)
total = torch.tensor(float(world.rank))
torch.distributed.all_reduce(total)
line = f"rank {world.rank} of {world.size} sum {total:.0f} threads {torch.get_num_threads()} port "
sys.stdout.write(line + os.environ["MASTER_PORT"] + " in " + os.getcwd() + chr(10))
sys.stdout.flush()
torch.distributed.barrier()
torch.distributed.destroy_process_group()
sys.exit(arguments.code if world.rank == 0 else 0)
"""


def processes_of(script: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(script) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def run(folder: Path, launcher: list[str], *arguments: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    script = folder / "tiny.py"
    script.write_text(SCRIPT)
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in threads}
    command = [sys.executable, *launcher, str(script), *arguments]
    # A separate extension folder shows whether anything is compiled.
    environment["TORCH_EXTENSIONS_DIR"] = str(folder / "extensions")
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120), script


def test_num_gpus_after_the_script_starts_that_many_ranks_and_leaves_nothing_behind(tmp_path: Path):
    shared = Path("/dev/shm")
    before = set(os.listdir(shared)) if shared.is_dir() else set()
    done, script = run(tmp_path, ["-m", "deepspeed.launcher.runner", "--master_port", "29611"], "--num_gpus", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r"^rank (\d) of 3 sum 3 threads 1 port (\d+) in (.*)$", done.stdout, re.MULTILINE)
    assert sorted(rank for rank, _, _ in lines) == ["0", "1", "2"]
    assert {Path(folder) for _, _, folder in lines} == {tmp_path}
    (port,) = {port for _, port, _ in lines}
    assert processes_of(script) == []
    assert not (tmp_path / "extensions").exists(), "DeepSpeed compiled something"
    if shared.is_dir():
        assert [name for name in set(os.listdir(shared)) - before if port in name] == []


def test_exit_code_is_passed_through(tmp_path: Path):
    done, script = run(tmp_path, [], "--num_gpus", "2", "--code", "75")
    assert done.returncode == 75, done.stdout + done.stderr
    assert done.stdout.count("of 2 sum 1") == 2
    assert processes_of(script) == []


def test_invalid_number_of_workers_is_one_line_and_exit_code_2(tmp_path: Path):
    done, script = run(tmp_path, ["-m", "deepspeed.launcher.runner", "--master_port", "29612"], "--num_gpus", "0")
    assert done.returncode == 2
    assert done.stderr.count("error: --num_gpus 0: at least 1 worker is needed") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert processes_of(script) == []
