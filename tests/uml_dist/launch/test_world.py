"""Decides which world trains: three command spellings, several nodes, other launchers, and no endless loop."""

import base64
import json
import sys
from itertools import product

import pytest

from uml_dist.errors import UmlError
from uml_dist.launch.devices import Devices
from uml_dist.launch.machines import Machines
from uml_dist.launch.world import (
    STARTED,
    Decision,
    World,
    decide,
    ensure_world,
    enter_world,
    exit_with_error,
    planned_ranks,
    read_world,
    script_arguments,
    world_command,
    world_environment,
)

CONTINUE, LEAVE = Decision("continue"), Decision("leave")
HERE = Machines(1, 0, "127.0.0.1", 29500)


def gpus(count: int) -> Devices:
    return Devices("cuda", tuple(map(str, range(count)))) if count else Devices("cpu")


def ranks(size: int, nodes: int = 1) -> list[World]:
    local = size // nodes
    return [World(rank, size, rank % local, local, nodes) for rank in range(size)]


def outcome(requested: int | None, launched: int, devices: Devices) -> int | str:
    """Return the number of ranks that train in the end, or the error that all ranks raise."""
    try:
        decisions = [decide(requested, world, devices) for world in (ranks(launched) if launched else [None])]
    except UmlError as error:
        return str(error)
    if decisions == [CONTINUE] * len(decisions):
        return len(decisions)
    first, *others = decisions
    assert first.action == "start"
    assert others == [LEAVE] * len(others)
    again = [decide(requested, world, devices, started=first.count) for world in ranks(first.count)]
    assert again == [CONTINUE] * first.count
    return first.count


def launched_by(spelling: str, requested: int, count: int) -> int:
    """Return how many ranks DeepSpeed's launcher starts: its own option's value, else all GPUs, or one on a CPU."""
    return {"python script": 0, "launcher option": requested, "script option": max(count, 1)}[spelling]


@pytest.mark.parametrize("spelling", ["python script", "launcher option", "script option"])
@pytest.mark.parametrize(("count", "requested"), list(product([0, 1, 4, 8], [1, 4, 8])))
def test_three_spellings_start_the_same_world(spelling: str, count: int, requested: int):
    script_option = None if spelling == "launcher option" else requested
    result = outcome(script_option, launched_by(spelling, requested, count), gpus(count))
    if count and requested > count:
        assert isinstance(result, str)
        assert f"{requested} GPUs were requested, but only {count} can be used" in result
        assert "\n" not in result
    else:
        assert result == requested


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 1), (4, 4), (8, 8)])
def test_default_is_all_gpus_or_one_process(count: int, size: int):
    assert outcome(None, 0, gpus(count)) == size


def test_default_keeps_the_launched_world():
    assert outcome(None, 3, gpus(8)) == 3
    assert outcome(None, 3, gpus(0)) == 3


def test_cpu_processes_are_not_limited_by_the_number_of_gpus():
    assert outcome(8, 4, Devices("cpu")) == 8


@pytest.mark.parametrize("requested", [0, -1])
def test_fewer_than_one_worker_is_an_error(requested: int):
    assert "at least 1" in str(outcome(requested, 0, gpus(4)))


def test_several_nodes_continue_if_each_has_the_requested_workers():
    assert [decide(8, world, gpus(8)) for world in ranks(16, nodes=2)] == [CONTINUE] * 16
    assert [decide(None, world, gpus(8)) for world in ranks(16, nodes=2)] == [CONTINUE] * 16


def test_several_nodes_never_start_another_world_but_print_the_command():
    for world in ranks(8, nodes=2):
        with pytest.raises(UmlError, match=r"`deepspeed --hostfile HOSTFILE --num_gpus 8 train.py a=1`"):
            decide(8, world, gpus(8), script="train.py a=1")


def test_node_with_the_right_count_detects_a_node_without():
    uneven = World(rank=0, size=12, local_rank=0, local_size=8, nodes=2)
    with pytest.raises(UmlError, match="12 ranks run on 2 nodes"):
        decide(8, uneven, gpus(8))


@pytest.mark.parametrize("world", [None, World(0, 4, 0, 4)])
def test_ranks_started_by_us_never_start_others(world: World | None):
    with pytest.raises(UmlError, match="2 ranks were started, but"):
        decide(2, world, gpus(0), started=2)


def environment(rank: int, size: int, **more: str) -> dict[str, str]:
    launcher = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_SIZE": str(size)}
    return {**launcher, "CROSS_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", **more}


def test_environments_of_deepspeed_and_torchrun_are_read():
    assert read_world({"HOME": "/"}) is None
    assert read_world(environment(2, 4)) == World(2, 4, 2, 4, 1)
    torchrun = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    assert read_world(torchrun) == World(5, 8, 1, 4, 2)
    with pytest.raises(UmlError, match="WORLD_SIZE=four"):
        read_world(environment(0, 1, WORLD_SIZE="four"))


class Replaced(Exception):
    """Replaces execve, which does not return."""


def ensured(requested: int | None, devices: Devices, where: dict[str, str], argv: list[str]):
    """Run `ensure_world`; return the replacing command line and environment, or the devices."""

    def replace(program: str, command: list[str], new: dict[str, str]):
        assert program == sys.executable
        raise Replaced(command, new)

    try:
        return ensure_world(requested, False, environment=where, argv=argv, find=lambda cpu: devices, execute=replace)
    except Replaced as replaced:
        return replaced.args


def started_ids(command: list[str]) -> list[str]:
    option = next(part for part in command if part.startswith("--world_info="))
    return json.loads(base64.urlsafe_b64decode(option.removeprefix("--world_info=")))["localhost"]


def test_new_world_receives_the_original_arguments():
    words = ["--num_gpus", "2", "run=a b", "--local_rank=7", "-x", ""]
    for where, argv in [({}, ["train.py", *words]), (environment(0, 4), ["train.py", "--local_rank=0", *words])]:
        command, new = ensured(2, gpus(4), where, argv)
        assert command[1:4] == ["-u", "-m", "uml_dist.launch.node"]
        assert command[-7:] == ["train.py", *words]
        assert started_ids(command) == ["0", "1"]
        assert new[STARTED] == "2"
        assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_PORT", "CROSS_SIZE"} & set(new)


def test_other_ranks_of_a_wrong_world_exit_with_0():
    with pytest.raises(SystemExit) as left:
        ensured(2, gpus(4), environment(1, 4), ["train.py", "--local_rank=1", "--num_gpus", "2"])
    assert left.value.code == 0


def test_right_world_continues_and_selects_the_cpu_for_deepspeed():
    where = environment(1, 2)
    assert ensured(2, Devices("cpu"), where, ["train.py"]) == Devices("cpu")
    assert where["DS_ACCELERATOR"] == "cpu"
    assert where["OMP_NUM_THREADS"] == "1"
    where = environment(1, 2)
    ensured(2, gpus(2), where, ["train.py"])
    assert "DS_ACCELERATOR" not in where
    assert "OMP_NUM_THREADS" not in where


def test_started_world_uses_the_first_visible_gpus():
    devices = Devices("cuda", ("GPU-b", "GPU-a", "GPU-c"))
    assert started_ids(world_command(2, devices, "train.py", [], HERE)) == ["GPU-b", "GPU-a"]


def test_cpu_processes_see_no_gpu_and_use_one_thread_each():
    assert started_ids(world_command(3, Devices("cpu"), "train.py", [], HERE)) == ["-1", "-1", "-1"]
    several = world_environment(3, Devices("cpu"), {"PATH": "/bin"})
    assert several["OMP_NUM_THREADS"] == several["MKL_NUM_THREADS"] == "1"
    assert several["DS_ACCELERATOR"] == "cpu"
    assert "OMP_NUM_THREADS" not in world_environment(1, Devices("cpu"), {})
    assert world_environment(3, Devices("cpu"), {"OMP_NUM_THREADS": "2"})["OMP_NUM_THREADS"] == "2"


def test_torchruns_rendezvous_is_removed_from_the_environment():
    old = {"TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_RANK": "0", "ROLE_RANK": "0", "LOCAL_WORLD_SIZE": "4"}
    assert not set(old) & set(world_environment(2, gpus(2), old))


def test_error_on_several_nodes_repeats_the_users_arguments():
    where = environment(0, 4, CROSS_SIZE="2", LOCAL_SIZE="2")
    with pytest.raises(UmlError, match=r"--hostfile HOSTFILE --num_gpus 8 train.py --run 'a b' x=1`"):
        ensured(8, gpus(8), where, ["train.py", "--local_rank=0", "--run", "a b", "--num_gpus", "8", "x=1"])


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_copies_started_without_ranks_are_refused(name: str):
    with pytest.raises(UmlError, match="started 8 copies"):
        ensured(None, gpus(8), {name: "8"}, ["train.py"])
    command, _ = ensured(None, gpus(8), {name: "1"}, ["train.py"])
    assert len(started_ids(command)) == 8


def test_launchers_own_argument_is_removed_but_the_users_is_kept():
    assert script_arguments(["s", "--local_rank=1", "a"], {"LOCAL_RANK": "1"}) == ["a"]
    assert script_arguments(["s", "--local_rank=1", "a"], {}) == ["--local_rank=1", "a"]
    assert script_arguments(["s", "a", "--local_rank=1"], {"LOCAL_RANK": "1"}) == ["a", "--local_rank=1"]


def test_entering_removes_the_variable_that_makes_deepspeed_fill_shared_memory():
    where = environment(1, 2, **{STARTED: "2"})
    assert enter_world(where) == World(1, 2, 1, 2, 1)
    assert "LOCAL_SIZE" not in where
    assert STARTED not in where


def test_one_rank_prints_the_error_and_the_others_exit_silently(capsys: pytest.CaptureFixture[str]):
    codes = []
    for rank in range(3):
        with pytest.raises(SystemExit) as left:
            exit_with_error(UmlError("nothing fits"), {"LOCAL_RANK": str(rank)})
        codes.append(left.value.code)
    assert codes == [2, 0, 0]
    assert capsys.readouterr().err == "error: nothing fits\n"


@pytest.mark.parametrize(
    ("requested", "variables", "count", "ranks"),
    [
        (None, {}, 0, 1),  # one CPU process
        (None, {}, 4, 4),  # all GPUs
        (8, {}, 0, 8),
        (2, {}, 4, 2),
        (3, environment(0, 1), 0, 3),  # a wrong world, which will be replaced
        (None, environment(0, 2), 0, 2),
    ],
)
def test_number_of_ranks_is_known_before_the_world_starts(requested, variables, count, ranks):
    kind = "cuda" if count else "cpu"
    devices = Devices(kind, tuple(str(number) for number in range(count)))
    assert planned_ranks(requested, False, environment=variables, find=lambda cpu: devices) == ranks


def test_impossible_world_is_detected_before_other_checks():
    with pytest.raises(UmlError, match="8 GPUs were requested, but only 4 can be used"):
        planned_ranks(8, False, environment={}, find=lambda cpu: Devices("cuda", ("0", "1", "2", "3")))


@pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface has another name")
@pytest.mark.parametrize(("nodes", "interface"), [("1", "lo"), ("2", None)])
def test_gloo_uses_the_loopback_interface_on_one_node(nodes, interface):
    variables = environment(0, 2, LOCAL_SIZE="2" if nodes == "1" else "1", CROSS_SIZE=nodes)
    ensure_world(None, True, environment=variables, argv=["train.py"], find=lambda cpu: Devices("cpu", ()))
    assert variables.get("GLOO_SOCKET_IFNAME") == interface
