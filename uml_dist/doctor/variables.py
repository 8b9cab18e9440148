"""Checks for environment variables of launchers, which break training if they are left over."""

from collections.abc import Mapping

from ..launch.machines import NODES, TASKS
from ..launch.world import RANK_VARIABLES, RANKLESS_LAUNCHERS, STARTED
from .finding import Finding, note, ok, problem


def check_launch_variables(environment: Mapping[str, str]) -> Finding:
    """Check variables that only a launcher may set: with all of them, a script is one rank and waits for the others."""
    name = "launch variables"
    for variable, launcher in RANKLESS_LAUNCHERS.items():
        if variable == TASKS and environment.get(NODES) == environment.get(TASKS):
            continue  # a task on each machine
        copies = environment.get(variable, "")
        if copies.isdecimal() and int(copies) > 1 and not all(one in environment for one in RANK_VARIABLES):
            message = f"{variable}={copies}: {launcher} starts {copies} copies, and each would start its own training"
            return problem(name, message, "one task per machine: see launchers/howto/cluster.md")
    if STARTED in environment:
        return problem(name, f"{STARTED} is left over from an earlier launch", f"unset {STARTED}")
    there = [one for one in (*RANK_VARIABLES, "LOCAL_SIZE", "LOCAL_WORLD_SIZE") if one in environment]
    if all(one in environment for one in RANK_VARIABLES):
        values = " ".join(f"{one}={environment[one]}" for one in there)
        message = f"{values}: training would wait for the other ranks"
        return problem(name, message, f"outside of a launcher: unset {' '.join(there)}")
    if there:
        return note(name, f"{', '.join(there)} left over from another launch", f"unset {' '.join(there)}")
    return ok(name, "no variables left over from a launch")


def check_threads(environment: Mapping[str, str], gpus: int, cores: int) -> Finding:
    """Check the number of threads of a process on the CPU.

    Args:
        environment: environment variables of this process.
        gpus: number of GPUs that training would use.
        cores: number of usable cores.
    """
    chosen = environment.get("OMP_NUM_THREADS")
    if chosen is not None:
        if not chosen.isdecimal() or int(chosen) < 1:
            return note("threads", f"OMP_NUM_THREADS={chosen} is not a number of threads", "unset OMP_NUM_THREADS")
        if int(chosen) > cores:
            message = f"OMP_NUM_THREADS={chosen}, but only {cores} cores can be used: threads wait for one another"
            return note("threads", message, f"export OMP_NUM_THREADS={cores}, divided by the number of workers")
        return ok("threads", f"OMP_NUM_THREADS={chosen}")
    if gpus or cores == 1:
        return ok("threads", "OMP_NUM_THREADS is not set and not needed")
    message = f"OMP_NUM_THREADS is not set: several workers use 1 thread each, a single worker uses all {cores} cores"
    remedy = f"for 2 workers on all cores: export OMP_NUM_THREADS={cores // 2}" if cores >= 4 else ""
    return note("threads", message, remedy)
