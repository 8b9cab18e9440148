"""`--num_gpus N` means N workers, whoever reads those words first.

DeepSpeed's launcher hands everything after the script's name to the script, so `deepspeed train.py --num_gpus 8` starts
as many ranks as it likes and tells them "8". Here a script sees to it that N ranks train: it goes on in a world of the
right size; in one of a wrong size the first rank replaces itself by a launcher of the right one and the others leave.
What is decided is a pure function of what was asked, how the process was launched and which devices there are.
"""

import base64
import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from ..errors import UmlError
from .devices import ACCELERATOR, VISIBLE, Devices, find_devices
from .memory import keep_freed_memory

STARTED = "UML_WORLD_STARTED"  # ranks that we started ourselves are told how many they are, and never start others
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FOREIGN = {  # launchers that start copies of a script without telling them RANK
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
}


@dataclass(frozen=True)
class World:
    """The place of a process among the ranks.

    Attributes:
        rank: among all ranks.
        size: all ranks.
        local_rank: among the ranks of this node.
        local_size: ranks of this node.
        nodes: machines.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    nodes: int = 1


@dataclass(frozen=True)
class Decision:
    """What a process does: trains in its world, starts a world of `count` ranks in its place, or leaves with 0."""

    action: Literal["go on", "start", "leave"]
    count: int = 0


def read_world(environment: Mapping[str, str]) -> World | None:
    """The world that a launcher (DeepSpeed's or torchrun) tells of in the environment, or None.

    Raises:
        UmlError: what it tells are not whole numbers.
    """
    if any(name not in environment for name in LAUNCHED):
        return None

    def number(*names: str, default: int) -> int:
        name = next((name for name in names if name in environment), None)
        try:
            return default if name is None else int(environment[name])
        except ValueError:
            raise UmlError(f"{name}={environment[name or '']} in the environment is no whole number") from None

    size = number("WORLD_SIZE", default=1)
    local_size = number("LOCAL_SIZE", "LOCAL_WORLD_SIZE", default=size)
    nodes = number("CROSS_SIZE", "GROUP_WORLD_SIZE", default=-(-size // max(local_size, 1)))
    return World(number("RANK", default=0), size, number("LOCAL_RANK", default=0), local_size, nodes)


def decide(
    asked: int | None, launched: World | None, devices: Devices, started: int | None = None, script: str = "SCRIPT"
) -> Decision:
    """What a process does about its world. On several nodes, what is asked is meant per node.

    Args:
        asked: `--num_gpus`, or None.
        launched: the world in which the process runs, or None.
        devices: of this node.
        started: the size of the world where we started it ourselves; such ranks never start another.
        script: the script and its arguments but `--num_gpus`, for the command that an error gives.

    Raises:
        UmlError: it cannot be had.
    """
    if asked is not None and asked < 1:
        raise UmlError(f"--num_gpus {asked}: at least 1 worker is needed")
    default = launched.local_size if launched else max(devices.count, 1)
    wanted = default if asked is None else asked
    if devices.kind == "cuda" and wanted > devices.count:
        raise UmlError(
            f"{wanted} GPUs are asked for and {devices.count} can be used here ({VISIBLE} counts): "
            f"ask for --num_gpus {devices.count}, or for {wanted} CPU processes with --cpu"
        )
    if started is not None:
        if launched is None or launched.size != started or wanted != started:
            found = launched.size if launched else 0
            raise UmlError(f"a world of {started} ranks was started and {found} came up: unset {STARTED} and retry")
        return Decision("go on")
    if launched is None:
        return Decision("start", wanted)
    if wanted == launched.local_size and (asked is None or launched.size == wanted * launched.nodes):
        return Decision("go on")
    if launched.nodes > 1:
        raise UmlError(
            f"--num_gpus {wanted} per node is asked for and {launched.size} ranks run on {launched.nodes} nodes: "
            f"start them with `deepspeed --hostfile HOSTFILE --num_gpus {wanted} {script}`"
        )
    return Decision("start", wanted) if launched.local_rank == 0 else Decision("leave")


def script_arguments(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The arguments as the user wrote them: `sys.argv` less the script and less what DeepSpeed's launcher put first.

    Args:
        argv: `sys.argv`.
        environment: of this process; the launcher's `--local_rank=N` is known by its LOCAL_RANK.
    """
    arguments = list(argv[1:])
    if "LOCAL_RANK" in environment and arguments[:1] == [f"--local_rank={environment['LOCAL_RANK']}"]:
        del arguments[0]
    return arguments


def world_command(count: int, devices: Devices, script: str, arguments: Sequence[str], port: int) -> list[str]:
    """The command line that starts a world of this size on this node.

    It is the per-node half of DeepSpeed's launcher, which keeps exit codes and forwards signals; the other half would
    stand between and do neither.
    """
    # On the CPU the launcher would write its numbers into CUDA_VISIBLE_DEVICES all the same: -1 is no GPU.
    ids = list(devices.ids[:count]) if devices.kind == "cuda" else ["-1"] * count
    world = base64.urlsafe_b64encode(json.dumps({"localhost": ids}).encode()).decode()
    launcher = [sys.executable, "-u", "-m", "deepspeed.launcher.launch"]
    options = [f"--world_info={world}", "--master_addr=127.0.0.1", f"--master_port={port}", "--log_level=error"]
    return [*launcher, *options, script, *arguments]


def world_environment(count: int, devices: Devices, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a new world: this one without the traces of the old world."""
    traces = (*LAUNCHED, "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT")
    # torchrun's variables would send the new ranks to the old world's meeting point.
    prefixes = ("TORCHELASTIC_", "GROUP_", "ROLE_")
    new = {name: value for name, value in environment.items() if name not in traces and not name.startswith(prefixes)}
    new[STARTED] = str(count)
    _prepare(new, devices, count)
    return new


def planned_ranks(
    asked: int | None,
    cpu: bool,
    *,
    environment: Mapping[str, str] | None = None,
    find: Callable[[bool], Devices] = find_devices,
) -> int:
    """All ranks of the world that `ensure_world` will see to, for what is to be checked before.

    Args:
        asked: `--num_gpus`, or None.
        cpu: `--cpu`.
        environment: of this process, unless given.
        find: how devices are found.

    Raises:
        UmlError: it cannot be had.
    """
    environment = os.environ if environment is None else environment
    launched, devices = read_world(environment), find(cpu)
    decide(asked, launched, devices, _started(environment))
    default = launched.local_size if launched else max(devices.count, 1)
    return (default if asked is None else asked) * (launched.nodes if launched else 1)


def ensure_world(
    asked: int | None,
    cpu: bool,
    *,
    environment: MutableMapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
    find: Callable[[bool], Devices] = find_devices,
    execute: Callable[[str, list[str], dict[str, str]], object] = os.execve,
) -> Devices:
    """Come back in a world of the size asked for, or not at all. Call it before deepspeed is imported.

    Where the world is wrong, its first rank is replaced by a launcher of the right one (same process, working directory
    and arguments) and the others end with 0. What the user can get wrong should be checked before.

    Args:
        asked: `--num_gpus`, or None for what was launched, else all GPUs, else one CPU process.
        cpu: `--cpu`.
        environment: of this process, unless given; DS_ACCELERATOR is set in it when training on the CPU.
        argv: `sys.argv`, unless given.
        find: how devices are found.
        execute: how the process is replaced.

    Returns:
        The devices of this node.

    Raises:
        UmlError: on every rank alike: hand it to `exit_with_error`.
    """
    environment = os.environ if environment is None else environment
    argv = sys.argv if argv is None else argv
    launched = read_world(environment)
    if launched is None:
        _refuse_copies(environment)
    devices = find(cpu)
    arguments = script_arguments(argv, environment)
    script = shlex.join([argv[0], *_without_asked(arguments)])
    decision = decide(asked, launched, devices, _started(environment), script)
    if decision.action == "leave":
        raise SystemExit(0)
    if decision.action == "start":
        sys.stdout.flush()
        sys.stderr.flush()
        command = world_command(decision.count, devices, argv[0], arguments, _free_port())
        execute(command[0], command, world_environment(decision.count, devices, environment))
    _prepare(environment, devices, launched.local_size if launched else 1, launched.nodes if launched else 1)
    return devices


def enter_world(environment: MutableMapping[str, str] | None = None) -> World:
    """Take this rank's place; to be called after `ensure_world` and before `deepspeed.init_distributed`.

    LOCAL_SIZE leaves the environment: where DeepSpeed finds it, 66 MB per rank stay in /dev/shm for a shared-memory
    collective that training never calls. That collective is switched off too, as it would be compiled at the first run
    on a CPU, with or without LOCAL_SIZE, and fail where there is no compiler.
    """
    environment = os.environ if environment is None else environment
    world = read_world(environment)
    assert world is not None, "ensure_world comes first"
    environment.pop("LOCAL_SIZE", None)
    environment.pop(STARTED, None)
    if environment.get(ACCELERATOR) == "cpu":
        keep_freed_memory()
    if "torch" in sys.modules and environment.get("OMP_NUM_THREADS", "").isdecimal():
        import torch

        # OpenMP has read its variable at the import, which may have been before it was set.
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    import deepspeed.ops

    # An empty table of compatible ops: it serves that collective only, and making it runs compilers.
    deepspeed.ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]
    return world


def exit_with_error(error: ValueError, environment: Mapping[str, str] | None = None) -> NoReturn:
    """End because of an error that every rank finds alike before they meet: one line from the first rank of a node.

    That rank ends with 2. The others end with 0 and without a word, since a launcher that sees any rank fail kills the
    rest, the one that was about to speak among them.
    """
    environment = os.environ if environment is None else environment
    if environment.get("LOCAL_RANK", "0") != "0":
        raise SystemExit(0)
    print(f"error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _started(environment: Mapping[str, str]) -> int | None:
    """The size of the world where we started it ourselves."""
    started = environment.get(STARTED, "")
    return int(started) if started.isdecimal() else None


def _prepare(environment: MutableMapping[str, str], devices: Devices, local_size: int, nodes: int = 1) -> None:
    """Set what the user leaves open: on one node gloo stays on the loopback interface, CPU ranks take a thread each."""
    if nodes == 1 and sys.platform == "linux":
        # Its own choice is the interface that the host's name leads to, which is open to the network or missing.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if devices.kind == "cpu":
        environment[ACCELERATOR] = "cpu"
        if local_size > 1:
            for name in THREADS:
                environment.setdefault(name, "1")


def _refuse_copies(environment: Mapping[str, str]) -> None:
    """Stop where every one of several copies of the script would start a world of its own."""
    for name, launcher in FOREIGN.items():
        copies = environment.get(name, "1")
        if copies.isdecimal() and int(copies) > 1:
            raise UmlError(
                f"{launcher} started {copies} copies without RANK, WORLD_SIZE and LOCAL_RANK: "
                "start one copy per job, or use deepspeed or torchrun"
            )


def _without_asked(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--num_gpus N` and `--num_gpus=N`."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != "--num_gpus" and not argument.startswith("--num_gpus="):
            kept.append(argument)
        skip = argument == "--num_gpus" and not skip
    return kept


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
