"""Finds the exporters of a run's ranks: the files from which Prometheus discovers them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from .files import read_bytes

MAX_FILES = 2000
MAX_BYTES = 4 << 20
MAX_RANKS = 256
"""Most ranks that are asked; of a larger world, the first ones."""


@dataclass(frozen=True)
class Target:
    """The exporter of a rank.

    Attributes:
        url: address of its metrics.
        rank: index of the rank.
        node: name of its machine.
        attempt: number of the start of the run.
    """

    url: str
    rank: int
    node: str
    attempt: int


def targets_folder(configured: Any = None) -> Path | None:
    """Return the folder of the files; None if the run writes none.

    Args:
        configured: `metrics.targets_dir` of the run; None for the default.
    """
    if isinstance(configured, str):
        return Path(configured) if configured else None
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "uml-dist" / "targets"


def targets_of(run: str, folder: Path) -> list[Target]:
    """Return the exporters of the newest attempt of a run, by rank; [] if there are none.

    Args:
        run: name of the run folder.
        folder: folder of the files.
    """
    found: dict[int, Target] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".json"))
    except OSError:
        return []
    for target in (one for name in names[:MAX_FILES] for one in _targets_in(folder, name, run)):
        known = found.get(target.rank)
        if known is None or known.attempt < target.attempt:
            found[target.rank] = target
    newest = max((target.attempt for target in found.values()), default=0)
    return sorted((one for one in found.values() if one.attempt == newest), key=lambda one: one.rank)[:MAX_RANKS]


def _targets_in(folder: Path, name: str, run: str) -> Iterable[Target]:
    try:
        groups = from_json(read_bytes(folder, name, limit=MAX_BYTES) or b"[]")
    except ValueError:
        return
    for group in groups if isinstance(groups, list) else []:
        labels = group.get("labels") if isinstance(group, dict) else None
        addresses = group.get("targets") if isinstance(group, dict) else None
        if not isinstance(labels, dict) or not isinstance(addresses, list) or labels.get("run") != run:
            continue
        scheme = "https" if labels.get("__scheme__") == "https" else "http"
        for address in addresses:
            if isinstance(address, str) and (rank := _count(labels.get("rank"))) is not None:
                url = f"{scheme}://{address}/metrics"
                yield Target(url, rank, str(labels.get("node", "")), _count(labels.get("attempt")) or 1)


def _count(label: Any) -> int | None:
    text = str(label)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
