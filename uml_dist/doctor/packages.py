"""Checks Python, the installed packages against the project's ranges and pins, and the extras."""

import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from .finding import Finding, note, ok, problem

DISTRIBUTION = "uml-dist"
INSTALL = "make install, or pip install -c constraints.txt -e . in the checkout"
EXTRAS = {
    "dicomseg": "DICOM Segmentations of predictions",
    "jpeg": "faster JPEG",
    "remote": "shards on object stores",
    "tables": "Excel tables",
    "volumes": "NIfTI, NRRD, HDF5 and DICOM",
}
"""Purposes of the extras; extras that are not listed here are for developers."""


@dataclass(frozen=True)
class Wanted:
    """The requirements of the project.

    Attributes:
        python: Python version range, as written in pyproject.toml.
        packages: requirements, as written in pyproject.toml.
        extras: requirements by extra.
        pins: tested version by lower-case package name; empty without a constraints.txt.
    """

    python: str
    packages: tuple[str, ...]
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)


def read_wanted(root: Path | None) -> Wanted:
    """Read pyproject.toml and constraints.txt of the checkout; the metadata of an editable install may be outdated.

    Without a checkout, the metadata of the installed package are read, which pin nothing.

    Raises:
        OSError: there is no pyproject.toml.
        PackageNotFoundError: without a checkout, the package is not installed.
    """
    if root is None:
        return _installed_wanted()
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: tuple(wanted) for name, wanted in project["optional-dependencies"].items() if name in EXTRAS}
    constraints = root / "constraints.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []
    pairs = [line.partition("==") for line in lines if "==" in line and not line.startswith("#")]
    pins = {name.strip().lower(): number.strip() for name, _, number in pairs}
    return Wanted(project["requires-python"], tuple(project["dependencies"]), extras, pins)


def _installed_wanted() -> Wanted:
    wanted: dict[str, list[str]] = {"": [], **{name: [] for name in EXTRAS}}
    for line in requires(DISTRIBUTION) or ():
        extra = re.search(r"extra == [\"'](\w+)[\"']", line)
        if extra is None:
            wanted[""].append(line)
        elif extra[1] in EXTRAS:
            wanted[extra[1]].append(line.partition(";")[0].strip())
    extras = {name: tuple(wanted[name]) for name in EXTRAS}
    return Wanted(metadata(DISTRIBUTION)["Requires-Python"], tuple(wanted[""]), extras)


def installed_version(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_python(wanted: Wanted, number: str | None = None, executable: str = sys.executable) -> Finding:
    """Check the Python interpreter.

    Args:
        wanted: requirements of the project.
        number: Python version; by default that of this interpreter.
        executable: path of the interpreter.
    """
    from packaging.specifiers import SpecifierSet

    number = number or ".".join(map(str, sys.version_info[:3]))
    message = f"{number} ({executable})"
    if SpecifierSet(wanted.python).contains(number, prereleases=True):
        return ok("Python", message)
    return problem("Python", f"{message}, {wanted.python} is needed", "make install PYTHON=python3.11 VENV=.venv-3.11")


def check_packages(wanted: Wanted, installed: Callable[[str], str | None] = installed_version) -> Finding:
    """Compare the packages with the allowed ranges (problem if outside) and with the tested versions (note).

    Args:
        wanted: requirements of the project.
        installed: returns the version of a package, or None if it is missing.
    """
    from packaging.requirements import Requirement
    from packaging.version import Version

    wrong, other, count = [], [], 0
    for requirement in map(Requirement, wanted.packages):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        count += 1
        found = installed(requirement.name)
        pin = wanted.pins.get(requirement.name.lower())
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, {requirement.specifier} is needed")
        # A local build such as 2.13.0+cpu counts as the pinned version.
        elif pin is not None and Version(found).public != Version(pin).public:
            other.append(f"{requirement.name} {found} (tested: {pin})")
    if wrong:
        return problem("packages", "; ".join(wrong), INSTALL)
    if other:
        return note("packages", f"allowed, but not the tested versions: {', '.join(other)}", INSTALL)
    return ok("packages", f"{count} within the allowed ranges{', at the tested versions' if wanted.pins else ''}")


def check_extras(wanted: Wanted, installed: Callable[[str], str | None] = installed_version) -> Finding:
    """Report the extras; none of them is needed to train on images on a local disk."""
    from packaging.requirements import Requirement

    def complete(requirements: Iterable[str]) -> bool:
        found = [(one, installed(one.name)) for one in map(Requirement, requirements)]
        return all(number is not None and one.specifier.contains(number, prereleases=True) for one, number in found)

    there = [name for name, requirements in wanted.extras.items() if complete(requirements)]
    missing = [name for name in wanted.extras if name not in there]
    if not missing:
        return ok("extras", f"installed: {', '.join(there)}")
    uses = ", ".join(f"{name} ({EXTRAS.get(name, 'more')})" for name in missing)
    return note("extras", f"not installed: {uses}", f"if you need them: pip install -e '.[{','.join(missing)}]'")


def check_origin(
    root: Path | None, environment: Mapping[str, str], names: Iterable[str], locate: Callable[[str], Path | None]
) -> Finding:
    """Check whether our packages are imported from this checkout, not from another one or through PYTHONPATH.

    Args:
        root: the checkout, if there is one.
        environment: environment variables of this process.
        names: names of our packages.
        locate: returns the folder from which a package would be imported, or None.
    """
    places = [Path(entry).resolve() for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    own = {folder.resolve() for folder in (root, root / "kernels", root / "shards")} if root else set()
    strange: list[tuple[str, Path]] = []
    for name in names:
        folder = locate(name)
        if folder is None:
            return problem("our packages", f"{name} cannot be imported", INSTALL)
        if root is None:
            own.add(folder.resolve().parent)  # wherever the first one is, the others should be
            root = folder.resolve().parent
        elif folder.resolve().parent not in own:
            strange.append((name, folder.resolve()))
    for name, folder in strange:
        if folder.parent in places:
            message = f"PYTHONPATH puts {name} from {folder.parent} before the one in this checkout"
            return problem("our packages", message, "unset PYTHONPATH, or remove that folder from it")
    if strange:
        name, folder = strange[0]
        message = f"{name} is imported from {folder.parent}, not from this checkout, {root}"
        return note("our packages", message, f"unless this is intended: {INSTALL}")
    return ok("our packages", f"imported from {root}")


def find_package(name: str) -> Path | None:
    """Return the folder from which a package would be imported, without importing it."""
    from importlib.util import find_spec

    spec = find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None
