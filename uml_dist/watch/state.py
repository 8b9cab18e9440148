"""What state a run is in: its status, how far it is, how fast, and how long it still takes."""

import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from .files import modified, read_bytes, subfolders
from .journal import Journal
from .text import duration

Status = Literal["running", "done", "stopped", "failed", "stalled", "new"]

STATUSES: tuple[Status, ...] = ("running", "stalled", "failed", "stopped", "done", "new")

WRITTEN: tuple[Status, ...] = ("running", "done", "stopped", "failed")
"""Those that a run writes itself."""

MAX_STATUS = 1 << 16
MAX_CONFIG = 1 << 20

OWNER = ".owner"
LEASE_SECONDS = 60.0
"""A training rewrites its owner file every 5 seconds; without a change for this long, its process has ended."""

STALLED_SECONDS = 120.0
STALLED_INTERVALS = 5.0
"""A run has stalled when no record came for 2 minutes, and for 5 times the longest interval between two records."""


@dataclass(frozen=True)
class State:
    """The state of a run; what is not known is None or "".

    Attributes:
        name: path of the run below the folder of runs.
        status: state of the run; "new" is a run folder without a status.
        reason: why it failed, stopped or stalled.
        step: optimiser steps done.
        planned: optimiser steps of the whole run.
        phase: the recipe's phase, if it has several.
        recipe: name of the recipe.
        epoch: passes over the first stream.
        updated: when the run last wrote its status, in seconds since 1970.
        seconds_per_step: by recent records, with validations and checkpoints.
        images_per_second: of all ranks together.
        data_wait: share of the time that rank 0 waits for data.
        loss: the last loss.
        vacuity: the last mean vacuity, of images or else of pixels.
        validation: name and value of the figure by which the best checkpoint is chosen.
        checkpoint: step of the newest checkpoint.
    """

    name: str
    status: Status
    reason: str = ""
    step: int = 0
    planned: int | None = None
    phase: str = ""
    recipe: str = ""
    epoch: float | None = None
    updated: float | None = None
    seconds_per_step: float | None = None
    images_per_second: float | None = None
    data_wait: float | None = None
    loss: float | None = None
    vacuity: float | None = None
    validation: tuple[str, float | None] | None = None
    checkpoint: int | None = None

    @property
    def progress(self) -> float | None:
        """Share of the planned steps that are done."""
        return min(self.step / self.planned, 1.0) if self.planned else None

    @property
    def eta_seconds(self) -> float | None:
        """Seconds that a running training still takes, by its recent speed."""
        if self.status != "running" or not self.planned or self.seconds_per_step is None:
            return None
        return max(0, self.planned - self.step) * self.seconds_per_step


def read_state(name: str, folder: Path, journal: Journal, now: float | None = None) -> State:
    """Return the state of a run, from its folder and its records.

    Args:
        name: name to show.
        folder: the run folder.
        journal: its records, up to date.
        now: seconds since 1970; by default the clock's.
    """
    now = time.time() if now is None else now
    config = read_tables(folder)
    found = _status_file(folder)
    status: Status = "new"
    for one in WRITTEN:
        status = one if found.get("status") == one else status
    reason = found.get("reason") if isinstance(found.get("reason"), str) else ""
    updated = _number(found.get("time"))
    if status == "running":
        reason = _why_stalled(folder, journal, updated, now)
        status = "stalled" if reason else status
    step = max(journal.step, int(_number(found.get("step")) or 0))
    seconds, steps = journal.recent_seconds()
    best = _text(_table(config, "train").get("best"))
    figure = f"validation_{best}"
    phases = config.get("phases")
    return State(
        name=name,
        status=status,
        reason=reason or "",
        step=step,
        planned=_planned(config, journal, step),
        phase=journal.phase if journal.phase != "train" or (isinstance(phases, list) and len(phases) > 1) else "",
        recipe=_text(config.get("recipe")),
        epoch=journal.last("epoch"),
        updated=updated,
        seconds_per_step=sum(seconds.values()) / steps if steps else None,
        images_per_second=journal.last("images_per_second"),
        data_wait=journal.last("data_wait"),
        loss=journal.last("loss"),
        vacuity=next((v for one in ("image", "pixel") if (v := journal.last(f"vacuity_{one}")) is not None), None),
        validation=(best, journal.last(figure)) if figure in journal.series else None,
        checkpoint=_checkpoint(folder),
    )


def read_tables(folder: Path) -> dict[str, Any]:
    """Return the tables of a run's config.toml, {} if it cannot be read; they are not validated."""
    try:
        return tomllib.loads((read_bytes(folder, "config.toml", limit=MAX_CONFIG) or b"").decode())
    except (ValueError, RecursionError):
        return {}


def _status_file(folder: Path) -> dict[str, Any]:
    try:
        found = from_json(read_bytes(folder, "status.json", limit=MAX_STATUS) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _why_stalled(folder: Path, journal: Journal, updated: float | None, now: float) -> str:
    """Return why a run whose status is "running" is not; "" if it is."""
    alive = modified(folder, OWNER)
    if alive is None or now - alive > LEASE_SECONDS:
        return "its process has ended without recording why: repeat the command to resume it"
    quiet = now - updated if updated is not None else 0.0
    if quiet > max(STALLED_SECONDS, STALLED_INTERVALS * journal.longest_interval):
        return f"its process lives, but has logged no step for {duration(quiet)}"
    return ""


def _planned(config: dict[str, Any], journal: Journal, step: int) -> int | None:
    """Return the steps of the whole run, as far as the configuration states them."""
    phases, train = config.get("phases"), _table(config, "train")
    given = [one.get("steps") for one in phases if isinstance(one, dict)] if isinstance(phases, list) else []
    stated = [steps for steps in given if type(steps) is int]
    if stated:  # the recipe decides about phases that state none
        return sum(stated) if len(stated) == len(given) else None
    if type(train.get("steps")) is int:
        return train["steps"]
    epochs, epoch = _number(train.get("epochs")), journal.last("epoch")
    if epochs and epoch and epoch > 0:
        return max(step, round(epochs * journal.series["epoch"].last_step / epoch))
    return None


def _checkpoint(folder: Path) -> int | None:
    steps = [name.removeprefix("step-") for name in subfolders(folder, "checkpoints") if name.startswith("step-")]
    return max((int(step) for step in steps if step.isascii() and step.isdigit() and len(step) < 19), default=None)


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}


def _number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        return None
    return float(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
