"""Metrics in files: for the textfile collector of node_exporter, and as the last values in the run folder."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from uml_shards.durable import replace_bytes

from .process import Process, written_files

logger = logging.getLogger(__name__)

TEXTFILE_SECONDS = 5.0
"""Time between two writes for node_exporter, which Prometheus usually scrapes every 15 s or more."""

LAST_VALUES_SECONDS = 30.0
"""Time between two writes of the last values, which a rank that is killed leaves behind."""

SUFFIX = ".prom"

_WRITER = "# uml-dist "


class Labelled(Collector):
    """Adds labels to every series of a registry, as those of a target are added to what is scraped from it.

    Args:
        registry: the registry.
        labels: the labels; a series that has one of them already keeps its own.
    """

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = dict(labels)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for metric in self._registry.collect():
            labelled = Metric(metric.name, metric.documentation, metric.type)
            labelled.samples = [one._replace(labels={**self._labels, **one.labels}) for one in metric.samples]
            yield labelled


class TextFile:
    """A file with the metrics of a registry, which a thread replaces every few seconds until `stop`. Never raises.

    A full disk is logged once, and the next writes are tried all the same.

    Args:
        path: the file, whose folder is created if necessary.
        registry: the registry.
        labels: labels of every series.
        seconds: time between two writes.
        keep: whether the file stays after `stop`, with the last values.
    """

    def __init__(
        self,
        path: Path,
        registry: CollectorRegistry,
        labels: Mapping[str, str],
        *,
        seconds: float = TEXTFILE_SECONDS,
        keep: bool = False,
    ) -> None:
        self.path = path
        self._metrics = Labelled(registry, labels)
        self._seconds = seconds
        self._keep = keep
        self._head = f"{_WRITER}{json.dumps(Process.current().record())}\n".encode()
        self._ended = Event()
        self._warned = False
        self._thread = Thread(target=self._run, name="textfile", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the file a last time, or remove it; a second call does nothing.

        A signal handler may call this: the thread writes, and is not waited for if it waits for the interrupted code.
        """
        self._ended.set()
        self._thread.join(2.0)
        if not self._keep:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _run(self) -> None:
        self._write()
        while not self._ended.wait(self._seconds):
            self._write()
        if self._keep:
            self._write()

    def _write(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(self.path, self._head + generate_latest(self._metrics), durable=False)
            self._warned = False
        except Exception as error:  # whatever it is, training continues
            if not self._warned:
                reason = (error.strerror if isinstance(error, OSError) else None) or error
                logger.warning("metrics are not written to %s: %s", self.path, reason)
            self._warned = True


def sweep_textfiles(folder: Path) -> list[Path]:
    """Remove the files of ranks that were killed, which node_exporter would serve for ever, and return their paths."""
    removed = []
    for path, left in list(written_files(folder, SUFFIX, _writer_of)):
        with suppress(OSError):
            if left:
                path.unlink()
                removed.append(path)
    return removed


def _writer_of(path: Path) -> Process | None:
    """Return the process that wrote a file, by its first line; None for the file of another program."""
    try:
        with path.open("rb") as file:
            line = file.readline(10_000).decode()
        return Process.read(json.loads(line.removeprefix(_WRITER))) if line.startswith(_WRITER) else None
    except (OSError, ValueError, RecursionError):
        return None
