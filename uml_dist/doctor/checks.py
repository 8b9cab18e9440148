"""All checks, in the order in which they are reported."""

import functools
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from ..launch.available_memory import read_memory
from ..launch.devices import read_driver, read_torch
from ..launch.resources import read_open_files, read_space
from . import compiler, folders, gpus, limits, network, packages, processor, run_folder, shared_memory, variables
from .finding import Finding, run_check

PACKAGES = ("uml_dist", "uml_kernels", "uml_shards")
CPU_WORKERS = 2  # what the demo starts
SLOW = {"torch", "driver", "processor"}  # no time limit: an import from a cold disk or a sleeping driver takes long
Checks = list[tuple[str, Callable[[], Finding]]]


def run_checks(run: Path, root: Path | None, environment: Mapping[str, str]) -> tuple[list[Finding], int]:
    """Run all checks, one after another.

    Args:
        run: folder of a run, or of runs; it does not have to exist.
        root: the checkout, if there is one.
        environment: environment variables of this process.

    Returns:
        The findings, and the number of GPUs that training would use.
    """
    driver, build = functools.cache(read_driver), functools.cache(read_torch)
    usable = gpus.usable_gpus(environment, driver, build)
    shown = gpus.count_driver_gpus(driver)

    def check_all_gpus() -> Finding:
        read = (gpus.read_gpus(), gpus.read_architectures()) if shown else ([], [])
        return gpus.check_gpus(*read, environment)

    checks = [
        *_package_checks(root, environment),
        ("torch", lambda: gpus.check_torch(build)),
        ("driver", lambda: gpus.check_driver(environment, driver, build)),
        ("GPUs", check_all_gpus),
        ("GPU variables", lambda: gpus.check_hidden(environment, shown)),
        *_compiler_checks(environment, usable),
        *_network_checks(run, environment, usable),
        *_machine_checks(environment, usable),
        *_folder_checks(run),
    ]
    return [run_check(name, check, None if name in SLOW else 3) for name, check in checks], usable


def _package_checks(root: Path | None, environment: Mapping[str, str]) -> Checks:
    return [
        ("Python", lambda: packages.check_python(packages.read_wanted(root))),
        ("our packages", lambda: packages.check_origin(root, environment, PACKAGES, packages.find_package)),
        ("packages", lambda: packages.check_packages(packages.read_wanted(root))),
        ("extras", lambda: packages.check_extras(packages.read_wanted(root))),
    ]


def _compiler_checks(environment: Mapping[str, str], usable: int) -> Checks:
    return [
        ("C compiler", lambda: compiler.check_compiler(usable, environment, compiler.python_header())),
        ("CUDA toolkit", lambda: compiler.check_toolkit(environment)),
        ("kernel cache", lambda: folders.check_kernel_cache(usable, folders.kernel_cache(environment))),
    ]


def _network_checks(run: Path, environment: Mapping[str, str], usable: int) -> Checks:
    def interfaces() -> Finding:
        return network.check_interfaces(environment, [name for _, name in socket.if_nameindex()])

    return [
        ("back ends", lambda: network.check_back_ends(usable, *network.read_back_ends())),
        ("launch variables", lambda: variables.check_launch_variables(environment)),
        ("loopback", network.check_loopback),
        ("interfaces", interfaces),
        ("launch port", network.check_launch_port),
        ("metrics", lambda: network.check_metrics(*run_folder.read_metrics_place(run))),
        ("host name", lambda: network.check_host_name(socket.gethostname())),
    ]


def _machine_checks(environment: Mapping[str, str], usable: int) -> Checks:
    def cores() -> Finding:
        return limits.check_cores(limits.cpu_affinity(), limits.read_quota(), os.cpu_count() or 1, usable)

    def threads() -> Finding:
        allowed = limits.usable_cores(limits.cpu_affinity(), limits.read_quota())
        return variables.check_threads(environment, usable, allowed)

    return [
        ("processor", lambda: processor.check_processor(processor.read_processor(), usable)),
        ("cores", cores),
        ("threads", threads),
        ("memory", lambda: limits.check_memory(read_memory(), usable or CPU_WORKERS)),
        ("shared memory", lambda: shared_memory.check_space(read_space(), usable)),
        ("left in memory", lambda: shared_memory.check_leftovers(shared_memory.find_leftovers())),
        ("open files", lambda: limits.check_open_files(*read_open_files())),
    ]


def _folder_checks(run: Path) -> Checks:
    return [
        ("disk of runs", lambda: folders.check_disk("runs", run)),
        ("disk of data", lambda: folders.check_disk("data", Path("data"))),
        ("run folder", lambda: folders.check_run_folder(run)),
        ("run", lambda: run_folder.check_run(run)),
        ("shard cache", lambda: folders.check_cache(folders.cache_folder())),
    ]
