"""Prometheus for tests: the installed programs, or those of Debian's package, unpacked in a cache of the user."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from worlds import free_port

RETRY_SECONDS = 3600
"""How long a failed download is remembered, so that not every process of the tests waits for it again."""


@dataclass(frozen=True)
class Programs:
    """Paths of the two programs."""

    prometheus: Path
    promtool: Path


@lru_cache(maxsize=1)
def prometheus_programs() -> Programs:
    """Return Prometheus and promtool; skip the test, saying so, if they are not to be had."""
    installed = [shutil.which(name) for name in ("prometheus", "promtool")]
    if installed[0] and installed[1]:
        return Programs(Path(installed[0]), Path(installed[1]))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uml-dist"
    problem = fetch_package(cache)
    if problem:
        pytest.skip(f"dashboards and alerts are NOT tested, as Prometheus is missing: {problem}")
    return Programs(*(cache / "prometheus" / "usr" / "bin" / name for name in ("prometheus", "promtool")))


def fetch_package(cache: Path) -> str | None:
    """Unpack Debian's package in `cache`/prometheus unless it is there; return why it cannot be had."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return "install prometheus and promtool (there is no apt-get to fetch them with)"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "prometheus.lock"):
            return _fetch_package(cache)
    except OSError as error:
        return str(error)


def _fetch_package(cache: Path) -> str | None:
    failure = cache / "prometheus.failed"
    if (cache / "prometheus").is_dir():
        return None
    if failure.exists() and time.time() - failure.stat().st_mtime < RETRY_SECONDS:
        return failure.read_text()
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        problem = _apt_get(folder, "download", "prometheus")
        if problem and os.geteuid() == 0:  # a fresh container has no lists of packages
            problem = _apt_get(folder, "update") or _apt_get(folder, "download", "prometheus")
        if problem:
            failure.write_text(problem)
            return problem
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg", "-x", package, Path(folder) / "root"], check=True, capture_output=True)
        (Path(folder) / "root").rename(cache / "prometheus")
    failure.unlink(missing_ok=True)
    return None


def _apt_get(folder: str, *words: str) -> str | None:
    """Call apt-get; return the last line of its error."""
    limits = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"]
    try:
        done = subprocess.run(["apt-get", *limits, *words], cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return f"apt-get {words[0]} did not end"
    lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return None if done.returncode == 0 else (lines or ["apt-get failed"])[-1]


class Server:
    """A running Prometheus.

    Attributes:
        url: its address.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API; an AssertionError has the message of an error."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the samples of an expression, now or at a time."""
        found = self.get("query", query=expression, **({} if at is None else {"time": str(at)}))["result"]
        return [{"value": found}] if found and not isinstance(found[0], dict) else found

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series of an expression over time."""
        return self.get("query_range", query=expression, start=str(start), end=str(end), step=str(step))["result"]

    def ready(self) -> bool:
        """Return whether it answers queries."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
            return answer.status == 200
        return False


@contextmanager
def running_prometheus(programs: Programs, config: Path, data: Path) -> Iterator[Server]:
    """Run Prometheus with a configuration, keeping its data in a folder."""
    port = free_port()
    words = [programs.prometheus, f"--config.file={config}", f"--storage.tsdb.path={data}"]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=100y"]
    log = data.parent / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
    try:
        server, deadline = Server(port), time.monotonic() + 60
        while not server.ready():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(30)
