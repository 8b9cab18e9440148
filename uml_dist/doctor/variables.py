"""Variables in the environment that launchers set, and that break training where they are left over."""

from collections.abc import Mapping

from ..launch.world import FOREIGN, LAUNCHED, STARTED
from .finding import Finding, note, ok, problem


def check_launch_variables(environment: Mapping[str, str]) -> Finding:
    """What only a launcher may set: with all of it a script is one rank of a world, and waits for the others."""
    name = "launch variables"
    for variable, launcher in FOREIGN.items():
        copies = environment.get(variable, "")
        if copies.isdecimal() and int(copies) > 1 and not all(one in environment for one in LAUNCHED):
            says = f"{variable}={copies}: {launcher} starts {copies} copies, each of which would start a world"
            return problem(name, says, "one task per job, or srun torchrun: see SLURM in launchers/README.md")
    if STARTED in environment:
        return problem(name, f"{STARTED} is left over from a launch of ours", f"unset {STARTED}")
    there = [one for one in (*LAUNCHED, "LOCAL_SIZE", "LOCAL_WORLD_SIZE") if one in environment]
    if all(one in environment for one in LAUNCHED):
        says = f"{' '.join(f'{one}={environment[one]}' for one in there)}: training would wait for the other ranks"
        return problem(name, says, f"outside of a launch: unset {' '.join(there)}")
    if there:
        return note(name, f"{', '.join(there)} of another launch in this environment", f"unset {' '.join(there)}")
    return ok(name, "none is left over from a launch")


def check_threads(environment: Mapping[str, str], gpus: int, cores: int) -> Finding:
    """Threads of a process on the CPU.

    Args:
        environment: of this process.
        gpus: on which training is meant to run.
        cores: that may be used.
    """
    chosen = environment.get("OMP_NUM_THREADS")
    if chosen is not None:
        if not chosen.isdecimal() or int(chosen) < 1:
            return note("threads", f"OMP_NUM_THREADS={chosen} is no number of threads", "unset OMP_NUM_THREADS")
        if int(chosen) > cores:
            says = f"OMP_NUM_THREADS={chosen}, and {cores} cores may be used: threads wait for one another"
            return note("threads", says, f"export OMP_NUM_THREADS={cores}, divided by the workers")
        return ok("threads", f"OMP_NUM_THREADS={chosen}")
    if gpus or cores == 1:
        return ok("threads", "OMP_NUM_THREADS is not set, nor need be")
    says = f"OMP_NUM_THREADS is not set: several workers take 1 thread each, a single one all of {cores} cores"
    todo = f"for 2 workers on all cores: export OMP_NUM_THREADS={cores // 2}" if cores >= 4 else ""
    return note("threads", says, todo)
