"""Variables of launchers that are left over, and threads."""

import pytest

from uml_dist.doctor.variables import check_launch_variables, check_threads

RANK = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "state", "todo"),
    [
        ({"HOME": "/nowhere"}, "ok", ""),
        (RANK, "problem", "unset RANK WORLD_SIZE LOCAL_RANK"),
        (RANK | {"LOCAL_SIZE": "4"}, "problem", "unset RANK WORLD_SIZE LOCAL_RANK LOCAL_SIZE"),
        ({"LOCAL_SIZE": "4"}, "note", "unset LOCAL_SIZE"),
        ({"WORLD_SIZE": "4"}, "note", "unset WORLD_SIZE"),
        ({"UML_WORLD_STARTED": "2"}, "problem", "unset UML_WORLD_STARTED"),
        ({"SLURM_STEP_NUM_TASKS": "8"}, "problem", "srun torchrun"),
        ({"SLURM_STEP_NUM_TASKS": "1"}, "ok", ""),
    ],
)
def test_what_a_launch_has_left_is_told_with_how_to_unset_it(environment, state, todo):
    found = check_launch_variables(environment)
    assert found.state == state
    assert todo in found.todo


@pytest.mark.parametrize(
    ("environment", "gpus", "cores", "state"),
    [
        ({}, 1, 8, "ok"),
        ({}, 0, 1, "ok"),
        ({}, 0, 8, "note"),
        ({"OMP_NUM_THREADS": "4"}, 0, 8, "ok"),
        ({"OMP_NUM_THREADS": "64"}, 0, 8, "note"),
        ({"OMP_NUM_THREADS": "many"}, 0, 8, "note"),
    ],
)
def test_threads_of_cpu_processes(environment, gpus, cores, state):
    assert check_threads(environment, gpus, cores).state == state


def test_the_threads_of_two_workers_are_worked_out():
    assert check_threads({}, 0, 8).todo.endswith("OMP_NUM_THREADS=4")
