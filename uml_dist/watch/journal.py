"""Follows the metrics.jsonl of a run: each call reads only what has been written since the last one."""

import os
import time
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from .files import opened
from .series import MAX_STEP, Series

FILE = "metrics.jsonl"
CHUNK = 1 << 20
MAX_LINE = 1 << 20
"""Longest line in bytes; a record has some hundred."""

MAX_SERIES = 512
MAX_NAME = 200
RECENT = 50
"""Number of records from which recent speed and phases follow."""

SECONDS = "seconds_"
MAX_SECONDS = 1e9
CHECKED = 64
"""Bytes before the place up to which the file was read, by which a rewritten file is recognised."""


class Journal:
    """The records of metrics.jsonl, as curves.

    Args:
        folder: the run folder.
        tail: read only about this many bytes of the end of a file that is found; None: all of it.

    Attributes:
        series: curves by the key of the records.
        recent: step and seconds by phase of the last training records.
        seconds: seconds by phase of all records.
        phase: the recipe's phase in the last training record.
        records: number of records.
        damaged: number of lines that are not records.
        behind: bytes that have not been read yet.
        revision: changes whenever records have been read.
    """

    def __init__(self, folder: Path, tail: int | None = None) -> None:
        self._folder = folder
        self._tail = tail
        self.revision = 0
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self._before = b""
        self._inode = 0
        self._skipping = self._cut = False
        self.series: dict[str, Series] = {}
        self.recent: deque[tuple[int, dict[str, float]]] = deque(maxlen=RECENT)
        self.seconds: dict[str, float] = {}
        self.longest_interval = 0.0
        self.phase = ""
        self.records = 0
        self.damaged = 0
        self.behind = 0

    def update(self, seconds: float = 2.0) -> None:
        """Read what is new, for about this long; a line that is still being written is left for the next call."""
        deadline = time.monotonic() + seconds
        try:
            with opened(self._folder, FILE) as stream:
                self._read(stream, deadline)
        except OSError:
            if self.records or self._offset:
                self._forget()
                self.revision += 1

    def _read(self, stream: BinaryIO, deadline: float) -> None:
        found = os.fstat(stream.fileno())
        if not self._is_continued(stream, found):
            self._forget()
            self.revision += 1
        self._inode = found.st_ino
        if not self._offset and self._tail is not None and found.st_size > self._tail:
            self._offset, self._cut = found.st_size - self._tail, True
        stream.seek(self._offset)
        while chunk := stream.read(CHUNK):
            end = chunk.rfind(b"\n") + 1
            if not end:
                if len(chunk) < MAX_LINE:
                    break  # the line is not complete yet
                end, self._skipping = len(chunk), True
            else:
                lines = chunk[:end].splitlines()
                if self._skipping or self._cut:
                    self.damaged += self._skipping
                    lines, self._skipping, self._cut = lines[1:], False, False
                self._add(lines)
                self.revision += 1
            self._offset += end
            self._before = (self._before + chunk[max(0, end - CHECKED) : end])[-CHECKED:]
            stream.seek(self._offset)
            if time.monotonic() > deadline:
                break
        self.behind = max(0, found.st_size - self._offset)

    def _is_continued(self, stream: BinaryIO, found: os.stat_result) -> bool:
        """Whether the file still begins with what was read of it; a resumed run removes records and writes it anew."""
        if not self._offset:
            return True
        if found.st_size < self._offset or found.st_ino != self._inode:
            return False
        stream.seek(self._offset - len(self._before))
        return stream.read(len(self._before)) == self._before

    def _add(self, lines: list[bytes]) -> None:
        columns: dict[str, tuple[list[float], list[float]]] = {}
        for line in lines:
            record = _record(line)
            if record is None:
                self.damaged += bool(line.strip())
                continue
            self.records += 1
            step = record["step"]
            spent: dict[str, float] = {}
            for name, value in record.items():
                kind = type(value)
                if kind is not float and (kind is not int or abs(value) > 1 << 62):
                    continue
                column = columns.get(name)
                if column is None:
                    if len(name) > MAX_NAME or len(columns) >= MAX_SERIES:
                        continue
                    column = columns[name] = ([], [])
                column[0].append(step)
                column[1].append(value)
                if name.startswith(SECONDS) and 0 <= value < MAX_SECONDS:
                    spent[name.removeprefix(SECONDS)] = value
            if spent:
                self._spend(step, spent)
            if isinstance(record.get("phase"), str):
                self.phase = record["phase"]
        for name, (steps, values) in columns.items():
            if name not in self.series and len(self.series) >= MAX_SERIES:
                continue
            if name != "step":
                self.series.setdefault(name, Series()).extend(steps, values)

    def _spend(self, step: int, spent: dict[str, float]) -> None:
        self.recent.append((step, spent))
        for name, value in spent.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        self.longest_interval = max(self.longest_interval, sum(spent.values()))

    def last(self, name: str) -> float | None:
        """Return the last value of a key; None if there is none."""
        return self.series[name].last if name in self.series else None

    @property
    def step(self) -> int:
        """The last step with a record."""
        return max((one.last_step for one in self.series.values()), default=0)

    def recent_seconds(self) -> tuple[dict[str, float], int]:
        """Return the seconds by phase of the last records, and the number of steps that they are of."""
        if len(self.recent) < 2:
            return {}, 0
        (first, _), *rest = self.recent
        spent: dict[str, float] = {}
        for _, seconds in rest:
            for name, value in seconds.items():
                spent[name] = spent.get(name, 0.0) + value
        return spent, max(0, rest[-1][0] - first)


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if it has no valid step."""
    try:
        record = from_json(line)
    except ValueError:
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if type(step) is int and 0 <= step <= MAX_STEP else None
