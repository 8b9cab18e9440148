"""Checks the C compiler that Triton uses, and the CUDA toolkit, which is not needed."""

import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

from .finding import Finding, note, ok, problem

COMPILERS = ("gcc", "clang")  # in the order in which Triton looks


def python_header() -> Path:
    """Return the path where Python.h is expected."""
    # Debian's default scheme names a folder without headers; Triton ignores it too.
    scheme = sysconfig.get_default_scheme()
    return Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)) / "Python.h"


def check_compiler(
    gpus: int,
    environment: Mapping[str, str],
    header: Path,
    which: Callable[[str], str | None] = shutil.which,
) -> Finding:
    """Check the C compiler and Python.h, with which Triton compiles kernel launchers; only a problem if GPUs are used.

    Args:
        gpus: number of GPUs that training would use.
        environment: environment variables of this process; CC, if set, names the compiler.
        header: path of Python.h.
        which: returns the path of a program, or None.
    """
    missing, remedies = [], []
    chosen = environment.get("CC")
    compiler = next((found for name in ([chosen] if chosen else COMPILERS) if (found := which(name))), None)
    if compiler is None:
        missing.append(f"CC={chosen} is not a program" if chosen else f"no C compiler found ({' or '.join(COMPILERS)})")
        remedies.append("set CC to a compiler without options, or unset it" if chosen else "apt install gcc")
    if not header.is_file():
        missing.append(f"{header} is missing")
        remedies.append("apt install python{}.{}-dev (Red Hat: python3-devel)".format(*sys.version_info[:2]))
    if not missing:
        return ok("C compiler", f"{compiler} and {header}")
    if gpus:
        return problem("C compiler", f"{'; '.join(missing)}: Triton's kernels need it", "; ".join(remedies))
    return note("C compiler", f"{'; '.join(missing)}; only needed with a GPU", "; ".join(remedies))


def check_toolkit(environment: Mapping[str, str]) -> Finding:
    """Check CUDA_HOME: the toolkit is not needed, but a CUDA_HOME that does not exist may disturb DeepSpeed."""
    home = environment.get("CUDA_HOME")
    if home and not Path(home).is_dir():
        return note("CUDA toolkit", f"CUDA_HOME={home} is not a folder; the toolkit is not needed", "unset CUDA_HOME")
    return ok("CUDA toolkit", "not needed: nvcc and CUDA_HOME are not used; ignore DeepSpeed's warning about them")
