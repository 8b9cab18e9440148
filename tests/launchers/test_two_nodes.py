"""Two launches of DeepSpeed as on two nodes, on the loopback interface of one machine: they train, stop and resume."""

import signal

import pytest

from nodes import Nodes, steps_of
from worlds import free_port

pytestmark = [pytest.mark.launch, pytest.mark.fault]


def test_two_nodes_stop_when_one_of_them_is_told_to(partly_known, tmp_path):
    training = Nodes(tmp_path, partly_known, ("127.0.0.1", free_port()))
    try:
        training.wait_for_step(3)
        training.rank_of(1).send_signal(signal.SIGUSR1)
        assert all(node.wait(300) != 0 for node in training.nodes)
    finally:
        training.kill()
    assert "2 CPU processes" in training.logs[0].read_text()
    status = training.status()
    assert (status["status"], status["reason"]) == ("stopped", "stopped by SIGUSR1")
    assert (training.run / "checkpoints" / "latest").read_text() == f"step-{status['step']:06d}\n"
    assert steps_of(training.run) == list(range(1, status["step"] + 1))
