"""One task of SLURM on each of several machines: which part of the world each of them starts."""

import base64
import json

import pytest

from uml_dist.errors import UmlError
from uml_dist.launch import Restarts
from uml_dist.launch.devices import Devices
from uml_dist.launch.machines import Machines, read_machines
from uml_dist.launch.world import STARTED, ensure_world, planned_ranks

STEP = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "3", "SLURM_NODEID": "1"}
MEETING = {"MASTER_ADDR": "node1", "MASTER_PORT": "20007"}


class Replaced(Exception):
    """Replaces execve, which does not return."""


def start(environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    def replace(program: str, command: list[str], new: dict[str, str]):
        raise Replaced(command, new)

    devices, argv = Devices("cuda", ("0", "1", "2", "3")), ["train.py", "--num_gpus", "2"]
    with pytest.raises(Replaced) as replaced:
        ensure_world(2, False, environment=environment, argv=argv, find=lambda cpu: devices, execute=replace)
    return replaced.value.args


def test_each_machine_starts_its_own_part_of_one_world():
    command, new = start({**STEP, **MEETING})
    options = dict(word.split("=", 1) for word in command if word.startswith("--") and "=" in word)
    world = json.loads(base64.urlsafe_b64decode(options["--world_info"]))
    assert list(world.values()) == [["0", "1"]] * 3
    assert (options["--node_rank"], options["--master_addr"], options["--master_port"]) == ("1", "node1", "20007")
    assert new[STARTED] == "6"
    assert "GLOO_SOCKET_IFNAME" not in new, "ranks of other machines do not reach the loopback interface"


def test_a_rank_of_several_machines_continues_and_knows_the_size_of_the_world():
    ranks = {**STEP, **MEETING, STARTED: "6", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "6"}
    ranks |= {"LOCAL_SIZE": "2", "CROSS_SIZE": "3"}
    devices = Devices("cuda", ("0", "1"))
    assert ensure_world(2, False, environment=ranks, argv=["train.py"], find=lambda cpu: devices) == devices
    assert planned_ranks(2, False, environment=ranks, find=lambda cpu: devices) == 6
    assert planned_ranks(2, False, environment={**STEP, **MEETING}, find=lambda cpu: devices) == 6


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"},
        {**STEP, **MEETING, "SLURM_STEP_NUM_TASKS": "24"},
    ],
)
def test_one_task_or_several_on_a_machine_are_not_a_task_on_each_machine(environment):
    assert read_machines(environment) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"MASTER_ADDR": ""}, "on each of 3 machines, but MASTER_ADDR is not set"),
        ({"MASTER_PORT": "x y"}, "MASTER_PORT=x y in the environment is not a number"),
        ({"SLURM_NODEID": "²"}, "SLURM_NODEID=² in the environment is not a number"),
    ],
)
def test_what_the_job_script_must_export_is_named(change, problem):
    with pytest.raises(UmlError, match=problem) as error:
        read_machines({**STEP, **MEETING, **change})
    assert "\n" not in str(error.value)
    assert read_machines({**STEP, **MEETING}) == Machines(3, 1, "node1", 20007)


def test_restarts_of_one_machine_alone_are_refused(tmp_path):
    devices = Devices("cpu")
    with pytest.raises(UmlError, match="--restarts works on one machine only"):
        ensure_world(
            2, True, environment={**STEP, **MEETING}, argv=["train.py"], restarts=Restarts.of(tmp_path, 3),
            find=lambda cpu: devices,
        )  # fmt: skip
