"""Where the metrics of runs are served: one file per run, in a folder per user that Prometheus watches (file_sd).

    python -m uml_dist.telemetry.targets [FOLDER]

removes the files of killed runs and lists the targets of the others. Each rank is a target with the labels run, node,
rank and attempt, which Prometheus adds to everything it scrapes from there. Further labels begin with two underscores,
so Prometheus drops them after relabelling: the scheme, the parameter `id`, by which a rank refuses a scrape that is
meant for another one on the same port, and who has written the file.

A file is removed when its run ends. That of a killed run is replaced when the run is resumed, wherever that is, and
removed by `sweep`, which each start of a run calls, once its process is known to be gone: on the same machine by its
process id and start, on others when the file has not been touched for ten minutes. A run that lives writes its file
again should it be missing.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from uml_shards.durable import replace_text
from uml_shards.text import printable

from .process import TOUCH_SECONDS, Process, file_name, written_files

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 24
"""Largest file of targets that is read; one of 10 000 ranks has 6 MB."""

SUFFIX = ".json"

_META = "__meta_uml_"


@dataclass(frozen=True)
class Target:
    """A rank that serves its metrics.

    Attributes:
        address: host and port.
        run: name of the run, printable.
        node: name of the rank's machine.
        rank: index among all ranks.
        attempt: number of this start of the run, 1 for the first.
        scheme: "http" or "https".
        id: what the rank calls itself; it refuses scrapes with another `?id=`.
        folder: the run folder.
        loopback: whether only programs on the same machine reach the address.
    """

    address: str
    run: str
    node: str
    rank: int
    attempt: int = 1
    scheme: str = "http"
    id: str = ""
    folder: str = ""
    loopback: bool = True

    @property
    def url(self) -> str:
        """Address of the metrics."""
        return f"{self.scheme}://{self.address}/metrics"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of everything that is scraped from the target."""
        return {"run": self.run, "node": self.node, "rank": str(self.rank), "attempt": str(self.attempt)}

    def group(self, writer: Process) -> dict[str, Any]:
        """Return the target as file_sd has it."""
        hidden = {"__scheme__": self.scheme, "__param_id": self.id, f"{_META}folder": self.folder}
        # In a home that several machines share, the loopback addresses of one are those of others too.
        hidden[f"{_META}loopback"] = self.node if self.loopback else ""
        hidden |= {f"{_META}{name}": value for name, value in writer.record().items()}
        return {"targets": [self.address], "labels": {**self.labels, **hidden}}

    @classmethod
    def read(cls, group: Mapping[str, Any]) -> Self:
        """Return the target of a group.

        Raises:
            KeyError, TypeError, ValueError: it is not one that `group` made.
        """
        (address,), labels = group["targets"], group["labels"]
        return cls(
            address=str(address),
            run=str(labels["run"]),
            node=str(labels["node"]),
            rank=int(labels["rank"]),
            attempt=int(labels["attempt"]),
            scheme=str(labels["__scheme__"]),
            id=str(labels["__param_id"]),
            folder=str(labels[f"{_META}folder"]),
            loopback=bool(labels[f"{_META}loopback"]),
        )


def targets_folder(setting: str | None = None, environment: Mapping[str, str] | None = None) -> Path | None:
    """Return the folder of the files of targets.

    Args:
        setting: `metrics.targets_dir`.
        environment: environment variables; by default those of this process.

    Returns:
        The folder; None if there is none, because the setting is empty or the user has no home.
    """
    if setting is not None:
        return Path(setting).expanduser().absolute() if setting else None
    state = (os.environ if environment is None else environment).get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the standard ignores others
        return Path(state) / "uml-dist" / "targets"
    try:
        return Path.home() / ".local" / "state" / "uml-dist" / "targets"
    except RuntimeError:
        return None


def current_targets(folder: Path | None = None) -> list[Target]:
    """Return the targets of all runs that may be alive, by run, attempt and rank.

    Args:
        folder: the folder of the files; by default that of `targets_folder`.
    """
    folder = targets_folder() if folder is None else folder
    found = [] if folder is None else [one for path in _files(folder, left=False) for one in _read(path)[1]]
    return sorted(found, key=lambda target: (target.run, target.folder, target.attempt, target.rank))


def sweep(folder: Path | None = None) -> list[Path]:
    """Remove the files of runs that were killed, and return their paths. Files of others are left alone.

    Args:
        folder: the folder of the files; by default that of `targets_folder`.
    """
    folder = targets_folder() if folder is None else folder
    removed = []
    for path in _files(folder, left=True) if folder else []:
        with suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


class TargetsFile:
    """The file of a run's targets, which is there until `remove`. Never raises.

    Args:
        folder: the folder, which is created if necessary.
        targets: the targets.
        key: distinguishes the run from others of its name; the file of an earlier start with the same key is replaced.
        seconds: time between two looks at the file.
    """

    def __init__(self, folder: Path, targets: Sequence[Target], key: str, seconds: float = TOUCH_SECONDS) -> None:
        writer = Process.current()
        self.path = folder / file_name(targets[0].run, key, SUFFIX)
        self._text = json.dumps([target.group(writer) for target in targets], indent=1) + "\n"
        self._seconds = seconds
        self._ended = Event()
        self._warned = False
        sweep(folder)
        self._write()
        self._thread = Thread(target=self._run, name="targets", daemon=True)
        self._thread.start()

    def remove(self) -> None:
        """Remove the file; a second call does nothing."""
        self._ended.set()
        self._thread.join(1.0)  # it may be writing
        with suppress(OSError):
            if self.path.read_text(encoding="ascii") == self._text:  # else the run has been resumed elsewhere
                self.path.unlink()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._keep()

    def _keep(self) -> None:
        """Touch the file, or write it if it is missing; a later start of the run may have replaced it."""
        try:
            if self.path.read_text(encoding="ascii") == self._text:
                os.utime(self.path)
        except FileNotFoundError:
            self._write()
        except OSError:
            logger.debug("%s cannot be touched", self.path, exc_info=True)

    def _write(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.path, self._text, durable=False)
            self._warned = False
        except OSError as error:
            if not self._warned:
                logger.warning("Prometheus cannot discover this run: %s: %s", self.path, error.strerror or error)
            self._warned = True


def _files(folder: Path, left: bool) -> list[Path]:
    """Return the files of runs that have left them, or of those that have not."""
    files = written_files(folder, SUFFIX, lambda path: _read(path)[0])
    return [path for path, is_left in files if is_left == left and (left or path.suffix == SUFFIX)]


def _read(path: Path) -> tuple[Process | None, list[Target]]:
    """Return who has written a file, and its targets; None for a file that is not a run's."""
    try:
        with path.open("rb") as file:
            groups = json.loads(file.read(MAX_BYTES))
        targets = [Target.read(group) for group in groups]
        labels = groups[0]["labels"]
        record = {name.removeprefix(_META): value for name, value in labels.items() if name.startswith(_META)}
        return Process.read(record), targets
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, []


def main(arguments: Sequence[str]) -> int:
    """Remove the files of killed runs, then print the folder and the targets in it."""
    folder = targets_folder(arguments[0] if arguments else None)
    if folder is None or len(arguments) > 1:
        print("error: name the folder of the targets, metrics.targets_dir", file=sys.stderr)
        return 2
    for path in sweep(folder):
        print(f"removed {printable(str(path))}: its run was killed")
    targets = current_targets(folder)
    print(f"{len(targets)} targets in {printable(str(folder))}")
    for target in targets:
        print(f"{target.url}  run {target.run}, attempt {target.attempt}, rank {target.rank} on {target.node}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
