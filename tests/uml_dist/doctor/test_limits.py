"""Open files, memory and cores, with limits of cgroups of both versions."""

import math
from pathlib import Path

import pytest

from uml_dist.doctor.limits import (
    check_cores,
    check_memory,
    check_open_files,
    cpu_affinity,
    read_quota,
    usable_cores,
)
from uml_dist.launch.available_memory import Memory, read_memory

GB = 10**9


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Create a root folder with 16 GB of memory and these files in sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal: 31250000 kB\nMemAvailable:   {16 * GB // 1024} kB\nHugePages_Free: 0\n"
    )
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("soft", "hard", "state", "remedy"),
    [
        (1024, 1024, "ok", ""),
        (-1, -1, "ok", ""),
        (256, -1, "ok", ""),
        (256, 2048, "ok", ""),
        (256, 512, "problem", "request a hard limit"),
    ],
)
def test_the_limit_of_open_files_is_a_problem_if_training_cannot_raise_it(soft, hard, state, remedy):
    found = check_open_files(soft, hard)
    assert found.state == state
    assert found.remedy.startswith(remedy)
    assert bool(found.remedy) == bool(remedy)


def test_memory_without_a_cgroup_is_that_of_the_machine(tmp_path):
    memory = read_memory(system(tmp_path, "", {}))
    assert memory.bound == "the machine"
    assert memory.available == pytest.approx(16 * GB, abs=1024)


def test_limit_of_version_2_applies_from_a_parent_group(tmp_path):
    files = {"job/memory.max": f"{4 * GB}\n", "job/memory.current": f"{3 * GB}\n", "job/step/memory.max": "max\n"}
    files |= {"job/step/memory.current": "5\n", "job/memory.stat": f"anon 1\ninactive_file {GB}\n"}
    assert read_memory(system(tmp_path, "0::/job/step\n", files)) == Memory(2 * GB, "its cgroup")


def test_limit_of_version_1_applies_if_the_path_of_the_group_is_hidden(tmp_path):
    files = {"memory/memory.limit_in_bytes": f"{2 * GB}\n", "memory/memory.usage_in_bytes": f"{GB}\n"}
    assert read_memory(system(tmp_path, "4:memory:/docker/77\n", files)) == Memory(GB, "its cgroup")


def test_version_1_without_a_limit_uses_the_machines_memory(tmp_path):
    files = {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n", "memory/memory.usage_in_bytes": f"{GB}\n"}
    assert read_memory(system(tmp_path, "4:memory:/\n", files)).bound == "the machine"


@pytest.mark.parametrize(("available", "state"), [(16 * GB, "ok"), (3 * GB, "note"), (GB // 2, "problem")])
def test_memory_is_compared_with_the_need_of_the_workers(available, state):
    assert check_memory(Memory(available, "the machine"), workers=2).state == state


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/job\n", {"job/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job\n", {"job/cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("3:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "9", "cpu,cpuacct/a/cpu.cfs_period_us": "3"}, 3),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "9", "cpu/cpu.cfs_period_us": "3"}, 3),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_cpu_quotas_of_both_versions_are_read(groups, files, quota, tmp_path):
    assert read_quota(system(tmp_path, groups, files)) == quota


@pytest.mark.parametrize(
    ("allowed", "quota", "gpus", "state", "word"),
    [
        (16, math.inf, 0, "ok", "16 of 16"),
        (16, math.inf, 8, "ok", "16 of 16"),
        (16, 2.5, 0, "note", "limited by a quota"),
        (4, math.inf, 0, "note", "limited by the CPU affinity"),
        (16, 12.0, 8, "note", "at least 16"),
    ],
)
def test_limited_cores_are_a_note(allowed, quota, gpus, state, word):
    found = check_cores(allowed, quota, 16, gpus)
    assert (found.state, word in found.message) == (state, True)


def test_fraction_of_a_core_counts_as_one():
    assert usable_cores(16, 0.5) == 1


def test_real_limits_can_be_read():
    assert cpu_affinity() >= 1
    assert read_memory().available > 0
    assert read_quota() > 0
