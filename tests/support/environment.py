"""An environment of chosen distributions, made of links to the installed ones: nothing is downloaded or copied."""

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def requirements(names: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """Names of the distributions and of all installed ones that they need; extras are not needed."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or name in without:
            continue
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        waiting += [re.match(r"[\w.-]+", line)[0] for line in needed if "extra ==" not in line]
    return found


def link_distributions(site: Path, names: Iterable[str], without: Iterable[str] = ()) -> None:
    """Fill a folder that can stand in for site-packages.

    Args:
        site: the folder, which is made if it does not exist.
        names: of distributions; what they need comes too.
        without: names of those that do not, although they are needed.
    """
    site.mkdir(exist_ok=True)
    for name in requirements(names, without):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = site / top
            if not link.exists():
                link.symlink_to(installed.locate_file(top))
