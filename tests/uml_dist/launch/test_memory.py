"""The process keeps the memory of freed tensors, so that new tensors cost no page faults."""

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
    # By default glibc keeps at most 32 MiB.
    activations = [torch.ones(megabytes << 18) for megabytes in (40, 4, 64, 40)]


for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    """Count the page faults of five steps after five equal steps, in a separate process."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc's malloc")
def test_tensors_of_a_step_reuse_the_memory_of_the_previous_step():
    assert page_faults("keep_freed_memory()") * 10 < page_faults("")
