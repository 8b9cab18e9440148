"""Trainings on two nodes, with a launch of DeepSpeed on each of them, as on machines without ssh."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"


class Nodes:
    """Two nodes that train in one run folder, with one rank each.

    Args:
        folder: of the run and of the logs.
        shards: what they train on.
        address: address of the first node, and a free port there.
        words: further settings.
        within: for each node, the command that runs another one where the node is, and its network interface.
    """

    def __init__(
        self,
        folder: Path,
        shards: Path,
        address: tuple[str, int],
        words: Sequence[str] = (),
        within: Sequence[tuple[Sequence[str], str]] = (((), "lo"), ((), "lo")),
    ) -> None:
        self.run = folder / "run"
        self.logs = [folder / f"log-{node}" for node in range(2)]
        (folder / "hostfile").write_text("node0 slots=1\nnode1 slots=1\n")
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(folder / "hostfile")]
        launcher += ["--no_ssh", "--master_addr", address[0], "--master_port", str(address[1])]
        settings = [f"streams.train.shards={shards}", "streams.train.count=4", "model.width=0.0625"]
        settings += ["train.steps=100000", "train.log_every=1", "train.validate_every=1000000", "data.workers=0"]
        settings += ["metrics.enabled=false", *words]
        script = [str(TRAIN), "--num_gpus", "1", "--cpu", "--run", str(self.run), *settings]
        self.nodes = []
        for node, (prefix, interface) in enumerate(within):
            command = [*prefix, *launcher, "--node_rank", str(node), *script]
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": interface}
            with self.logs[node].open("ab") as log:
                self.nodes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def rank_of(self, node: int) -> psutil.Process:
        """The rank of a node: the process without further processes of the training."""
        processes = psutil.Process(self.nodes[node].pid).children(recursive=True)
        return next(one for one in processes if "LOCAL_RANK" in one.environ() and not one.children())

    def wait_for_step(self, step: int, seconds: float = 600) -> None:
        """Wait until a step has been logged."""
        wait_for(lambda: self.last_step() >= step, seconds, self.fail_if_ended)

    def fail_if_ended(self) -> None:
        """Fail if a node has ended."""
        assert [node.poll() for node in self.nodes] == [None, None], self.logs[0].read_text()

    def last_step(self) -> int:
        """The last step that was logged; 0 without one."""
        steps = steps_of(self.run)
        return steps[-1] if steps else 0

    def status(self) -> Mapping[str, Any]:
        """The contents of status.json."""
        return json.loads((self.run / "status.json").read_text())

    def kill(self) -> None:
        """Kill what is left of the nodes."""
        for node in self.nodes:
            with suppress(psutil.NoSuchProcess):
                for process in psutil.Process(node.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            node.kill()
            node.wait()


def steps_of(run: Path) -> list[int]:
    """Steps that a run has logged."""
    lines = (run / "metrics.jsonl").read_text().splitlines(True) if (run / "metrics.jsonl").is_file() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def wait_for(happened: Callable[[], bool], seconds: float, check: Callable[[], object] = lambda: None) -> None:
    """Wait until something has happened; fail if it does not in time, or if the check fails."""
    deadline = time.monotonic() + seconds
    while not happened():
        check()
        assert time.monotonic() < deadline
        time.sleep(0.1)
