"""Packages of other authors: the example package with its raw data, and small ones that tests write themselves."""

import importlib
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "example_package"
"""A recipe and an importer in a package of their own; the guides show its files."""


def install(
    site: Path,
    package: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str] | None = None,
) -> None:
    """Write a package as pip leaves it in site-packages: its metadata, and its modules.

    Args:
        site: folder on sys.path.
        package: name of the distribution.
        entry_points: group -> name -> package.module:Class.
        modules: name of a module -> its code.
    """
    metadata = site / f"{package.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, code in (modules or {}).items():
        (site / f"{name}.py").write_text(code)
    importlib.invalidate_caches()


def install_example(site: Path) -> None:
    """Make the example package importable, with the entry points that its pyproject.toml declares."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["entry-points"])
    (site / "lesion_example").symlink_to(EXAMPLE / "lesion_example")


def write_lesions(raw: Path, patients: int) -> Path:
    """Write raw data for the importer of the example package, and return their folder.

    Each patient has three images: one without a label, a benign one and a malignant one. The first has no mask.
    """
    for folder in ("images", "masks"):
        (raw / folder).mkdir(parents=True)
    rows = ["image,patient,label"]
    for patient in range(patients):
        for number, label in enumerate(("", "benign", "malignant")):
            name = f"p{patient:02d}-{number}"
            rows.append(f"{name},p{patient:02d},{label}")
            image = np.full((40, 50, 3), 8 * patient + number, dtype=np.uint8)
            Image.fromarray(image).save(raw / "images" / f"{name}.png")
            if label:
                mask = np.zeros((40, 50), dtype=np.uint8)
                mask[10:20, 10:30] = 255
                Image.fromarray(mask).save(raw / "masks" / f"{name}.png")
    (raw / "table.csv").write_text("\n".join(rows) + "\n")
    return raw
