"""Makes `--num_gpus N` mean N workers, whether the launcher or the script parses the option.

DeepSpeed's launcher passes everything after the script's name to the script, so `deepspeed train.py --num_gpus 8`
starts its default number of ranks and passes them "8". The script therefore ensures itself that N ranks train. If the
world (all ranks together) has the right size, it continues. If not, the first rank replaces itself with a launcher of
the right size and the other ranks exit. The decision is a pure function of the requested number of workers, the way in
which the process was launched, and the available devices.
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

from uml_shards.errors import STOPPED, print_error

from ..errors import UmlError
from .ancestors import remember_launchers
from .devices import ACCELERATOR, VISIBLE, Devices, find_devices
from .ending import end_process
from .machines import Machines, read_machines
from .memory import keep_freed_memory
from .restarts import Restarts

STARTED = "UML_WORLD_STARTED"  # size of a world that this module started; its ranks never start another world
PORT = "--master_port="
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
RANKLESS_LAUNCHERS = {  # launchers that start copies of a script without setting RANK
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
}


@dataclass(frozen=True)
class World:
    """The position of a process among the ranks.

    Attributes:
        rank: index among all ranks.
        size: number of all ranks.
        local_rank: index among the ranks of this node.
        local_size: number of ranks on this node.
        nodes: number of machines.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    nodes: int = 1


@dataclass(frozen=True)
class Decision:
    """What a process does: train in its world, replace itself with a world of `count` ranks, or exit with code 0."""

    action: Literal["continue", "start", "leave"]
    count: int = 0


def read_world(environment: Mapping[str, str]) -> World | None:
    """Read the world that a launcher (DeepSpeed's or torchrun) describes in the environment; None without a launcher.

    Raises:
        UmlError: a variable is not an integer.
    """
    if any(name not in environment for name in RANK_VARIABLES):
        return None

    def number(*names: str, default: int) -> int:
        name = next((name for name in names if name in environment), None)
        try:
            return default if name is None else int(environment[name])
        except ValueError:
            raise UmlError(f"{name}={environment[name or '']} in the environment is not an integer") from None

    size = number("WORLD_SIZE", default=1)
    local_size = number("LOCAL_SIZE", "LOCAL_WORLD_SIZE", default=size)
    nodes = number("CROSS_SIZE", "GROUP_WORLD_SIZE", default=-(-size // max(local_size, 1)))
    return World(number("RANK", default=0), size, number("LOCAL_RANK", default=0), local_size, nodes)


def decide(
    requested: int | None, launched: World | None, devices: Devices, started: int | None = None, script: str = "SCRIPT"
) -> Decision:
    """Decide what a process does to get the requested world. On several nodes, the requested number is per node.

    Args:
        requested: `--num_gpus`, or None.
        launched: the world in which the process runs, or None.
        devices: the devices of this node.
        started: size of the world if this module started it; its ranks never start another world.
        script: the script and its arguments without `--num_gpus`, for the command in an error message.

    Raises:
        UmlError: the requested world cannot be started.
    """
    if requested is not None and requested < 1:
        raise UmlError(f"--num_gpus {requested}: at least 1 worker is needed")
    default = launched.local_size if launched else max(devices.count, 1)
    wanted = default if requested is None else requested
    if devices.kind == "cuda" and wanted > devices.count:
        raise UmlError(
            f"{wanted} GPUs were requested, but only {devices.count} can be used here ({VISIBLE} is respected): "
            f"pass --num_gpus {devices.count}, or --cpu for {wanted} CPU processes"
        )
    if started is not None:
        if launched is None or launched.size != started or wanted * launched.nodes != started:
            found = launched.size if launched else 0
            raise UmlError(f"{started} ranks were started, but {found} came up: unset {STARTED} and retry")
        return Decision("continue")
    if launched is None:
        return Decision("start", wanted)
    if wanted == launched.local_size and (requested is None or launched.size == wanted * launched.nodes):
        return Decision("continue")
    if launched.nodes > 1:
        raise UmlError(
            f"--num_gpus {wanted} per node was requested, but {launched.size} ranks run on {launched.nodes} nodes: "
            f"start them with `deepspeed --hostfile HOSTFILE --num_gpus {wanted} {script}`"
        )
    return Decision("start", wanted) if launched.local_rank == 0 else Decision("leave")


def script_arguments(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the arguments as the user wrote them: `sys.argv` without the script and the launcher's `--local_rank=N`.

    Args:
        argv: `sys.argv`.
        environment: environment variables of this process; LOCAL_RANK identifies the argument that DeepSpeed's launcher
            inserted first.
    """
    arguments = list(argv[1:])
    if "LOCAL_RANK" in environment and arguments[:1] == [f"--local_rank={environment['LOCAL_RANK']}"]:
        del arguments[0]
    return arguments


def world_command(count: int, devices: Devices, script: str, arguments: Sequence[str], machines: Machines) -> list[str]:
    """Return the command line that starts this number of ranks on this node, as its part of the world.

    It calls the per-node part of DeepSpeed's launcher, which keeps exit codes and forwards signals. The front end of
    the launcher would do neither.
    """
    # The launcher writes these numbers into CUDA_VISIBLE_DEVICES on the CPU too; -1 selects no GPU. It reads those of
    # its own node only, and counts those of the others.
    ids = list(devices.ids[:count]) if devices.kind == "cuda" else ["-1"] * count
    nodes = {f"node{index}": ids for index in range(machines.count)} if machines.count > 1 else {"localhost": ids}
    world = base64.urlsafe_b64encode(json.dumps(nodes).encode()).decode()
    launcher = [sys.executable, "-u", "-m", f"{__package__}.node"]
    options = [f"--world_info={world}", f"--master_addr={machines.address}", f"{PORT}{machines.port}"]
    return [*launcher, *options, f"--node_rank={machines.index}", "--log_level=error", script, *arguments]


def world_environment(count: int, devices: Devices, environment: Mapping[str, str], nodes: int = 1) -> dict[str, str]:
    """Return the environment for a new world: this one without the variables of the old world.

    Args:
        count: number of ranks on this node.
        devices: devices of this node.
        environment: environment variables of this process.
        nodes: number of nodes.
    """
    traces = (
        *RANK_VARIABLES,
        "LOCAL_SIZE",
        "LOCAL_WORLD_SIZE",
        "CROSS_RANK",
        "CROSS_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    )
    # torchrun's variables would make the new ranks join the old world's rendezvous.
    prefixes = ("TORCHELASTIC_", "GROUP_", "ROLE_")
    new = {name: value for name, value in environment.items() if name not in traces and not name.startswith(prefixes)}
    new[STARTED] = str(count * nodes)
    _prepare(new, devices, count, nodes)
    return new


def planned_ranks(
    requested: int | None,
    cpu: bool,
    *,
    environment: Mapping[str, str] | None = None,
    find: Callable[[bool], Devices] = find_devices,
) -> int:
    """Return the number of ranks of the world that `ensure_world` will start, for checks that run before it.

    Args:
        requested: `--num_gpus`, or None.
        cpu: `--cpu`.
        environment: environment variables; by default those of this process.
        find: finds the devices.

    Raises:
        UmlError: the requested world cannot be started.
    """
    environment = os.environ if environment is None else environment
    launched, devices = read_world(environment), find(cpu)
    decide(requested, launched, devices, _started(environment))
    default = launched.local_size if launched else max(devices.count, 1)
    nodes = launched.nodes if launched else machine_count(environment)
    return (default if requested is None else requested) * nodes


def machine_count(environment: Mapping[str, str]) -> int:
    """Return the number of machines on which copies of this process start the ranks.

    Raises:
        UmlError: see `read_machines`.
    """
    machines = read_machines(environment)
    return machines.count if machines else 1


def ensure_world(
    requested: int | None,
    cpu: bool,
    *,
    environment: MutableMapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
    restarts: Restarts | None = None,
    find: Callable[[bool], Devices] = find_devices,
    execute: Callable[[str, list[str], dict[str, str]], object] = os.execve,
) -> Devices:
    """Return only in a world of the requested size. Call this before deepspeed is imported.

    If the world has the wrong size, its first rank is replaced with a launcher of the right size (same process, working
    directory and arguments) and the other ranks exit with code 0. Check user input before calling this.

    Args:
        requested: `--num_gpus`; None for the launched ranks, else all GPUs, else one CPU process.
        cpu: `--cpu`.
        environment: environment variables; by default those of this process. DS_ACCELERATOR is set in it when training
            on the CPU.
        argv: command line; by default `sys.argv`.
        restarts: restarts after failures; only a launcher that is started here can do that.
        find: finds the devices.
        execute: replaces the process.

    Returns:
        The devices of this node.

    Raises:
        UmlError: the requested world cannot be started; raised on every rank, to be passed to `exit_with_error`.
    """
    environment = os.environ if environment is None else environment
    argv = sys.argv if argv is None else argv
    launched = read_world(environment)
    machines = read_machines(environment) if launched is None else None
    if launched is None and machines is None:
        _refuse_copies(environment)
    if machines and restarts:
        raise UmlError("--restarts works on one machine only: let the scheduler start the job again")
    devices = find(cpu)
    arguments = script_arguments(argv, environment)
    script = shlex.join([argv[0], *_without_num_gpus(arguments)])
    decision = decide(requested, launched, devices, _started(environment), script)
    if decision.action == "leave":
        raise SystemExit(0)
    if decision.action == "start":
        sys.stdout.flush()
        sys.stderr.flush()
        machines = machines or Machines(1, 0, "127.0.0.1", free_port())
        command = world_command(decision.count, devices, argv[0], arguments, machines)
        started = world_environment(decision.count, devices, environment, machines.count)
        remember_launchers(started, argv[0])
        if restarts:
            restarts.write(started)
        execute(command[0], command, started)
    if restarts and Restarts.read(environment) is None:
        raise UmlError("--restarts works only if this program starts the workers: call it by python, not by a launcher")
    _prepare(environment, devices, launched.local_size if launched else 1, launched.nodes if launched else 1)
    return devices


def enter_world(environment: MutableMapping[str, str] | None = None) -> World:
    """Set up this rank's process; call this after `ensure_world` and before `deepspeed.init_distributed`.

    LOCAL_SIZE is removed from the environment: if DeepSpeed finds it, it reserves 66 MB per rank in /dev/shm for a
    shared-memory collective that training never calls. That collective is also disabled, because it would be compiled
    at the first run on a CPU, with or without LOCAL_SIZE, and fail without a compiler.
    """
    environment = os.environ if environment is None else environment
    world = read_world(environment)
    assert world is not None, "call ensure_world first"
    environment.pop("LOCAL_SIZE", None)
    environment.pop(STARTED, None)
    if environment.get(ACCELERATOR) == "cpu":
        keep_freed_memory()
    if "torch" in sys.modules and environment.get("OMP_NUM_THREADS", "").isdecimal():
        import torch

        # OpenMP reads its variable when torch is imported, which may have been before the variable was set.
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    import deepspeed.ops

    # The table of compatible ops is used for that collective only, and building it runs compilers.
    deepspeed.ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]
    return world


def exit_with_error(error: Exception, environment: Mapping[str, str] | None = None) -> NoReturn:
    """Exit because of an error that every rank detects before the ranks connect; the node's first rank prints one line.

    That rank exits with code 2. The other ranks exit silently with code 0: if a launcher sees any rank fail, it kills
    the rest, including the one that is about to print the error.
    """
    environment = os.environ if environment is None else environment
    if environment.get("LOCAL_RANK", "0") != "0":
        raise SystemExit(0)
    print_error(error)
    raise SystemExit(2)


def exit_stopped(environment: Mapping[str, str] | None = None) -> NoReturn:
    """End the process after Ctrl-C, with code 75; the node's first rank prints one line."""
    environment = os.environ if environment is None else environment
    if environment.get("LOCAL_RANK", "0") == "0":
        print("stopped: repeat the command to continue", file=sys.stderr, flush=True)
    end_process(STOPPED)


def _started(environment: Mapping[str, str]) -> int | None:
    """Return the size of the world if this module started it, else None."""
    started = environment.get(STARTED, "")
    return int(started) if started.isdecimal() else None


def _prepare(environment: MutableMapping[str, str], devices: Devices, local_size: int, nodes: int = 1) -> None:
    """Set defaults for unset variables: gloo uses the loopback interface on one node, CPU ranks one thread each."""
    if nodes == 1 and sys.platform == "linux":
        # By default gloo uses the interface of the host name, which may be open to the network or missing.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if devices.kind == "cpu":
        environment[ACCELERATOR] = "cpu"
        if local_size > 1:
            for name in THREADS:
                environment.setdefault(name, "1")


def _refuse_copies(environment: Mapping[str, str]) -> None:
    """Raise an error if each of several copies of the script would start its own world."""
    for name, launcher in RANKLESS_LAUNCHERS.items():
        copies = environment.get(name, "1")
        if copies.isdecimal() and int(copies) > 1:
            raise UmlError(
                f"{launcher} started {copies} copies without RANK, WORLD_SIZE and LOCAL_RANK: "
                "start one copy per machine, or use deepspeed or torchrun"
            )


def _without_num_gpus(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without `--num_gpus N` and `--num_gpus=N`."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != "--num_gpus" and not argument.startswith("--num_gpus="):
            kept.append(argument)
        skip = argument == "--num_gpus" and not skip
    return kept


def free_port() -> int:
    """Return a port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
