"""The watchdog: a rank that hangs, was stopped or has died ends the training, and is named.

Each rank watches itself in a thread. Ranks that wait for another one are late as well, so every rank that is late
writes a report, with the stacks of its threads, into the run's folder `faults`. The first of these ranks then names the
culprit: a rank without a report, or else one that does not wait for others.
"""

import faulthandler
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import psutil
from pydantic import TypeAdapter

from uml_shards.durable import replace_text

from ..config.faults import FaultsConfig
from ..telemetry.health import Health

LOOK_SECONDS = 1.0
"""Time between two looks at this rank."""

REPORT_SECONDS = 5.0
"""How long to wait for the reports of other ranks, at least."""

LAST_SECONDS = 30.0
"""How long reports and their judgement may take after that, until a rank ends without."""

WAITING = ("/torch/distributed/", "/deepspeed/comm/")
"""Parts of the paths of modules in which a rank waits for others."""


@dataclass(frozen=True)
class Place:
    """Where a rank runs."""

    host: str
    process: int

    @classmethod
    def here(cls) -> "Place":
        """Return the place of this rank."""
        return cls(socket.gethostname(), os.getpid())

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    @property
    def is_stopped(self) -> bool:
        """Whether the process is on this machine and was stopped, by SIGSTOP or a debugger."""
        with suppress(psutil.Error):
            return self.host == socket.gethostname() and psutil.Process(self.process).status() in (
                psutil.STATUS_STOPPED,
                psutil.STATUS_TRACING_STOP,
            )
        return False

    @property
    def is_gone(self) -> bool:
        """Whether the process was on this machine and has ended."""
        return self.host == socket.gethostname() and not psutil.pid_exists(self.process)


@dataclass(frozen=True)
class Report:
    """What a rank that is late does.

    Attributes:
        section: see `telemetry.health.Doing`.
        step: steps of the run that have ended.
        seconds: since then.
        span: name of the innermost span that is open; "" for none.
        waits: whether it waits for other ranks.
    """

    section: str
    step: int
    seconds: float
    span: str
    waits: bool

    def __str__(self) -> str:
        where = f"in {self.section}" if self.section != "step" else f"in step {self.step + 1}"
        return f"{where}{f', {self.span},' if self.span not in ('', self.section) else ''} for {self.seconds:.0f} s"


_REPORT = TypeAdapter(Report)


class Watchdog:
    """Watches this rank from `begin` to `stop`.

    Args:
        settings: `[faults]`.
        health: what this rank does.
        spans: returns the names of the open spans, the outermost first.
        rank: index of this rank.
        places: where all ranks run.
        folder: folder of the reports of this start of the run, which all ranks share.
        ended: called in another thread, in the rank that judges, with the reason; the process ends afterwards.
    """

    def __init__(
        self,
        settings: FaultsConfig,
        health: Health,
        spans: Callable[[], Sequence[str]],
        rank: int,
        places: Sequence[Place],
        folder: Path,
        ended: Callable[[str], object],
    ) -> None:
        self._settings = settings
        self._health = health
        self._spans = spans
        self._rank = rank
        self._places = places
        self._folder = folder
        self._ended = ended
        self._stopped = threading.Event()

    def begin(self) -> None:
        """Watch from now on."""
        if self._settings.watchdog:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            now = self._health.doing()
            limit = now.limit(self._settings.step_seconds, self._settings.pause_seconds)
            if now.seconds > limit:
                spans = self._spans()
                report = Report(now.section, now.step, now.seconds, spans[-1] if spans else "", waits_for_others())
                patience = max(REPORT_SECONDS, limit / 4)
                last = threading.Timer(patience + LAST_SECONDS, os._exit, (1,))  # the folder may be what hangs
                last.daemon = True
                last.start()
                self._report(report, patience)
                os._exit(1)

    def _report(self, report: Report, patience: float) -> None:
        """Write this rank's report, wait for those of the others, and judge if this rank is the first of them."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._stacks(self._rank).open("w", encoding="utf-8") as stream:
                faulthandler.dump_traceback(stream, all_threads=True)
            replace_text(self._folder / f"rank-{self._rank}.json", json.dumps(asdict(report)) + "\n", durable=False)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and len(self._read()) < len(self._places):
            time.sleep(0.1)
        reports = {self._rank: report, **self._read()}
        if min(reports) == self._rank:
            self._judge(reports)
        else:
            time.sleep(REPORT_SECONDS)  # until the one that judges has recorded the reason

    def _judge(self, reports: Mapping[int, Report]) -> None:
        silent = [rank for rank in range(len(self._places)) if rank not in reports]
        for rank in silent:
            self._dump(rank)
        self._ended(f"{verdict(reports, self._places)}; stacks in {self._folder}")
        for rank in silent:
            if self._places[rank].is_stopped:
                # So that it ends: a launcher's signal does not reach a process that was stopped.
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(self._places[rank].process, signal.SIGCONT)

    def _dump(self, rank: int) -> None:
        """Write the stacks of a rank that does not do so itself, if it is on this machine and py-spy is installed."""
        program, place = shutil.which("py-spy"), self._places[rank]
        if program and place.host == socket.gethostname() and not place.is_gone:
            command = [program, "dump", "--nonblocking", "--pid", str(place.process)]
            with suppress(OSError, subprocess.SubprocessError), self._stacks(rank).open("wb") as stream:
                subprocess.run(command, stdout=stream, stderr=subprocess.DEVNULL, timeout=REPORT_SECONDS)

    def _stacks(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.stacks.txt"

    def _read(self) -> dict[int, Report]:
        found = {}
        for rank in range(len(self._places)):
            with suppress(OSError, ValueError):
                found[rank] = _REPORT.validate_json((self._folder / f"rank-{rank}.json").read_bytes())
        return found


def verdict(reports: Mapping[int, Report], places: Sequence[Place]) -> str:
    """Return who hangs, and where.

    Args:
        reports: the reports of the ranks that are late.
        places: where all ranks run.
    """
    silent = [f"rank {rank} ({place}) {_state(place)}" for rank, place in enumerate(places) if rank not in reports]
    busy = [f"rank {rank} ({places[rank]}) hangs {one}" for rank, one in sorted(reports.items()) if not one.waits]
    if silent or busy:
        return "; ".join(silent or busy)
    first, one = min(reports.items())
    return f"all ranks wait for each other, rank {first} {one}"


def _state(place: Place) -> str:
    if place.is_gone:
        return "has died"
    return "was stopped (SIGSTOP)" if place.is_stopped else "does not answer"


def waits_for_others() -> bool:
    """Return whether the main thread waits for other ranks."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in WAITING):
            return True
        frame = frame.f_back
    return False
