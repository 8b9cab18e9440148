"""Left-over variables of launchers, and threads."""

import pytest

from uml_dist.doctor.variables import check_launch_variables, check_threads

RANK = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "state", "remedy"),
    [
        ({"HOME": "/nowhere"}, "ok", ""),
        (RANK, "problem", "unset RANK WORLD_SIZE LOCAL_RANK"),
        (RANK | {"LOCAL_SIZE": "4"}, "problem", "unset RANK WORLD_SIZE LOCAL_RANK LOCAL_SIZE"),
        ({"LOCAL_SIZE": "4"}, "note", "unset LOCAL_SIZE"),
        ({"WORLD_SIZE": "4"}, "note", "unset WORLD_SIZE"),
        ({"UML_WORLD_STARTED": "2"}, "problem", "unset UML_WORLD_STARTED"),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}, "problem", "one task per machine"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}, "ok", ""),
        ({"SLURM_STEP_NUM_TASKS": "1"}, "ok", ""),
    ],
)
def test_left_over_variables_are_reported_with_their_remedy(environment, state, remedy):
    found = check_launch_variables(environment)
    assert found.state == state
    assert remedy in found.remedy


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
def test_thread_settings_of_cpu_processes_are_checked(environment, gpus, cores, state):
    assert check_threads(environment, gpus, cores).state == state


def test_remedy_gives_the_threads_for_two_workers():
    assert check_threads({}, 0, 8).remedy.endswith("OMP_NUM_THREADS=4")
