"""Print the lowest allowed version of each direct dependency, as constraints for pip.

python3 .ci/lowest.py > lowest.txt && make test-quick VENV=build/lowest CONSTRAINTS=lowest.txt
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)>=(?P<lowest>[\w.!]+)(?:,[^;]*)?(?P<marker>;.*)?")


def lowest_versions(requirements: Iterable[str]) -> list[str]:
    """Return the constraints `name==version`, sorted, with the markers of the requirements.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    constraints = set()
    for requirement in requirements:
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise ValueError(f"requirement {requirement!r} has no lower bound: write name>=version")
        constraints.add(f"{found['name']}=={found['lowest']}{found['marker'] or ''}")
    return sorted(constraints)


def requirements_of(pyproject: Path) -> list[str]:
    """Return the direct dependencies in a pyproject.toml, with those of all extras."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lowest_versions(requirements_of(Path("pyproject.toml"))))
