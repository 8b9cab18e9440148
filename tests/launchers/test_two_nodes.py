"""Two launches of DeepSpeed as on two nodes, on the loopback interface of one machine: they train, stop and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from worlds import free_port

pytestmark = pytest.mark.launch

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"


def start(folder: Path, shards: Path, port: int, node: int, steps: int) -> subprocess.Popen[bytes]:
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(folder / "hostfile"), "--no_ssh"]
    launcher += ["--node_rank", str(node), "--master_addr", "127.0.0.1", "--master_port", str(port)]
    words = [f"streams.train.shards={shards}", "streams.train.count=4", "model.width=0.0625", f"train.steps={steps}"]
    words += ["train.log_every=1", "train.validate_every=1000000", "data.workers=0", "metrics.enabled=false"]
    command = [*launcher, str(TRAIN), "--num_gpus", "1", "--cpu", "--run", str(folder / "run"), *words]
    with (folder / f"log-{node}").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"})


def rank_of(node: subprocess.Popen[bytes]) -> psutil.Process:
    """The rank of a node, the grandchild of its front end."""
    (launcher,) = psutil.Process(node.pid).children()
    (rank,) = launcher.children()
    return rank


def test_two_nodes_stop_when_one_of_them_is_told_to(partly_known, tmp_path):
    (tmp_path / "hostfile").write_text("node0 slots=1\nnode1 slots=1\n")
    run, port = tmp_path / "run", free_port()
    nodes = [start(tmp_path, partly_known, port, node, 100_000) for node in range(2)]
    deadline = time.monotonic() + 200
    try:
        while "step 3/" not in (tmp_path / "log-0").read_text():
            assert [node.poll() for node in nodes] == [None, None], (tmp_path / "log-0").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        rank_of(nodes[1]).send_signal(signal.SIGUSR1)
        assert all(node.wait(120) != 0 for node in nodes)
    finally:
        for node in nodes:
            for process in psutil.Process(node.pid).children(recursive=True) if node.poll() is None else ():
                process.kill()
            node.kill()
    log = (tmp_path / "log-0").read_text()
    assert "2 CPU processes" in log
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("stopped", "stopped by SIGUSR1")
    assert (run / "checkpoints" / "latest").read_text() == f"step-{status['step']:06d}\n"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, status["step"] + 1))
