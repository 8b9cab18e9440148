"""The machines of a SLURM job step: one task on each of them starts the workers of its machine."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UmlError

TASKS, NODES, NODE = "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_NODEID"
ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"


@dataclass(frozen=True)
class Machines:
    """The machines of a training.

    Attributes:
        count: number of machines.
        index: number of this machine, from 0.
        address: name or IP address of machine 0, where the ranks meet.
        port: a free port of machine 0.
    """

    count: int
    index: int
    address: str
    port: int


def read_machines(environment: Mapping[str, str]) -> Machines | None:
    """Read the machines of this job step; None unless SLURM started one task on each of several machines.

    Raises:
        UmlError: a variable is missing or not valid.
    """
    count = environment.get(TASKS, "")
    if count in ("", "1") or count != environment.get(NODES):
        return None
    missing = [name for name in (NODE, ADDRESS, PORT) if not environment.get(name)]
    if missing:
        raise UmlError(
            f"srun started a task on each of {count} machines, but {missing[0]} is not set: "
            "export it as launchers/slurm/train.sbatch does"
        )
    numbers = {name: environment[name] for name in (TASKS, NODE, PORT)}
    for name, text in numbers.items():
        if not (text.isascii() and text.isdecimal()):
            raise UmlError(f"{name}={text} in the environment is not a number")
    return Machines(int(count), int(numbers[NODE]), environment[ADDRESS], int(numbers[PORT]))
