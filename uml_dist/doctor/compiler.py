"""What Triton compiles its launchers with, and what nobody needs."""

import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

from .finding import Finding, note, ok, problem

COMPILERS = ("gcc", "clang")  # in the order in which Triton looks


def python_header() -> Path:
    """Where Python.h is, if it is there."""
    # Debian's own scheme has a folder where nothing is; Triton passes over it too.
    scheme = sysconfig.get_default_scheme()
    return Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)) / "Python.h"


def check_compiler(
    gpus: int,
    environment: Mapping[str, str],
    header: Path,
    which: Callable[[str], str | None] = shutil.which,
) -> Finding:
    """A C compiler and Python's header, with which Triton makes the launchers of kernels: a problem beside a GPU alone.

    Args:
        gpus: on which training is meant to run.
        environment: of this process; its CC is the compiler where it is set.
        header: Python.h.
        which: the path of a program, None where there is none.
    """
    missing, todo = [], []
    chosen = environment.get("CC")
    compiler = next((found for name in ([chosen] if chosen else COMPILERS) if (found := which(name))), None)
    if compiler is None:
        missing.append(f"CC={chosen} is no program" if chosen else f"no C compiler ({' or '.join(COMPILERS)}) is found")
        todo.append("set CC to a compiler without options, or unset it" if chosen else "apt install gcc")
    if not header.is_file():
        missing.append(f"{header} is missing")
        todo.append("apt install python{}.{}-dev (Red Hat: python3-devel)".format(*sys.version_info[:2]))
    if not missing:
        return ok("C compiler", f"{compiler} and {header}")
    if gpus:
        return problem("C compiler", f"{'; '.join(missing)}: Triton's kernels need it", "; ".join(todo))
    return note("C compiler", f"{'; '.join(missing)}; needed beside a GPU only", "; ".join(todo))


def check_toolkit(environment: Mapping[str, str]) -> Finding:
    """NVIDIA's toolkit is not needed; a CUDA_HOME that leads nowhere may still trouble DeepSpeed."""
    home = environment.get("CUDA_HOME")
    if home and not Path(home).is_dir():
        return note("CUDA toolkit", f"CUDA_HOME={home} is no folder; none is needed", "unset CUDA_HOME")
    return ok("CUDA toolkit", "not needed: neither nvcc nor CUDA_HOME is used, whatever DeepSpeed warns")
