"""Freed tensors stay with the process, so that the next ones cost no page faults."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from uml_dist.launch.memory import keep_freed_memory

{call}


def step():
    # 32 MiB is the most that glibc may keep by itself.
    activations = [torch.ones(megabytes << 18) for megabytes in (40, 4, 64, 40)]


for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    """Of five steps after five others that made and freed the same tensors, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_the_tensors_of_a_step_take_the_places_of_the_last_one():
    assert page_faults("keep_freed_memory()") * 10 < page_faults("")
