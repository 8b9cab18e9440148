"""Asks the ranks of a run for their metrics: which of them the others wait for, and how certain the networks are."""

import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from prometheus_client.parser import text_string_to_metric_families

from .targets import Target, targets_folder, targets_of

SECONDS = 1.0
"""How long a rank may take to answer; it takes milliseconds."""

THREADS = 32
MAX_BYTES = 4 << 20
KEEP_SECONDS = 4.0
"""How long answers are used before the ranks are asked again."""

WINDOW_SECONDS = 120.0
"""Time over which recent figures are formed."""

SHORTEST_WINDOW = 15.0

BETWEEN_STEPS = ("validation", "checkpoint", "hooks")
WAITING = "counts"
"""Phase in which a rank waits for the slowest one."""

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[str, Mapping[Labels, float]]


@dataclass(frozen=True)
class RankView:
    """What a rank spends its time on.

    Attributes:
        rank: index of the rank.
        node: name of its machine.
        problem: why it gave no answer; "" if it did.
        step_seconds: mean duration of a step.
        own_seconds: part of it without the wait for other ranks.
        waiting: share of the step in which it waits for other ranks.
        data_wait: share of the step in which it waits for data.
        memory: resident memory in bytes.
        gpu_memory: allocated GPU memory in bytes.
        gpu_utilization: share of the time in which a kernel ran, 0 to 1.
        skipped: samples replaced by placeholders.
    """

    rank: int
    node: str
    problem: str = ""
    step_seconds: float | None = None
    own_seconds: float | None = None
    waiting: float | None = None
    data_wait: float | None = None
    memory: float | None = None
    gpu_memory: float | None = None
    gpu_utilization: float | None = None
    skipped: float | None = None


@dataclass(frozen=True)
class RanksView:
    """What the ranks of a run answered.

    Attributes:
        ranks: one view of each rank.
        window: seconds over which their figures are formed; None: since the run was started.
        distributions: edges and counts of the vacuity of all ranks, by level.
        problem: why nothing is known; "" if something is.
    """

    ranks: tuple[RankView, ...] = ()
    window: float | None = None
    distributions: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    problem: str = ""


class _NoRedirects(HTTPRedirectHandler):
    """Refuses redirects: they could lead to any machine, with the token."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


class Ranks:
    """The ranks of one run. Several threads may ask.

    Args:
        run: name of the run folder.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._asked = -KEEP_SECONDS
        self._view = RanksView(problem="the ranks were not asked yet")
        self._history: deque[tuple[float, dict[int, Samples]]] = deque()

    def view(self, metrics: Mapping[str, Any]) -> RanksView:
        """Return what the ranks answer now, or answered a few seconds ago.

        Args:
            metrics: table `[metrics]` of the run's configuration.
        """
        with self._lock:
            if time.monotonic() - self._asked >= KEEP_SECONDS:
                self._view = self._ask(metrics)
                self._asked = time.monotonic()
            return self._view

    def _ask(self, metrics: Mapping[str, Any]) -> RanksView:
        folder = targets_folder(metrics.get("targets_dir"))
        if folder is None:
            return RanksView(problem="the run lists no addresses of its ranks (metrics.targets_dir is empty)")
        targets = targets_of(self._run, folder)
        if not targets:
            return RanksView(problem="no rank of the run serves its metrics now")
        answers = ask_all(targets, _opener(metrics), _token(metrics))
        now = time.monotonic()
        good = {target.rank: one for target, one in zip(targets, answers, strict=True) if not isinstance(one, str)}
        if not good:
            return RanksView(problem=f"no rank answers: {next(one for one in answers if isinstance(one, str))}")
        before, window = self._before(now, good)
        self._history.append((now, good))
        views = tuple(
            RankView(target.rank, target.node, problem=one)
            if isinstance(one, str)
            else rank_view(target, one, before.get(target.rank, {}))
            for target, one in zip(targets, answers, strict=True)
        )
        return RanksView(views, window, distributions(list(good.values())))

    def _before(self, now: float, good: Mapping[int, Samples]) -> tuple[Mapping[int, Samples], float | None]:
        """Return earlier answers of the same processes to compare with, and how old they are."""
        while self._history and (
            now - self._history[0][0] > WINDOW_SECONDS or _steps(self._history[0][1]) > _steps(good)
        ):
            self._history.popleft()
        if not self._history or now - self._history[0][0] < SHORTEST_WINDOW:
            return {}, None
        at, earlier = self._history[0]
        # Phases are read at logging steps only: without one in the window, the figures are those of the whole run.
        if any(_total(earlier.get(rank, {}), PHASES) == _total(one, PHASES) for rank, one in good.items()):
            return {}, None
        return earlier, now - at


STEPS, PHASES, STEP_SUM, STEP_COUNT = (
    "uml_steps_total",
    "uml_phase_seconds_total",
    "uml_step_seconds_sum",
    "uml_step_seconds_count",
)


def rank_view(target: Target, now: Samples, before: Samples) -> RankView:
    """Return what a rank spent its time on since an earlier answer, or since the start where that is empty."""

    def since(name: str) -> float:
        return _total(now, name) - _total(before, name)

    phases = {
        dict(labels).get("phase", ""): value - before.get(PHASES, {}).get(labels, 0.0)
        for labels, value in now.get(PHASES, {}).items()
    }
    within = sum(value for name, value in phases.items() if name not in BETWEEN_STEPS)
    count, seconds = since(STEP_COUNT), since(STEP_SUM)
    step = seconds / count if count > 0 else None
    waiting = phases.get(WAITING, 0.0) / within if within > 0 else None
    waited = since("uml_data_wait_seconds_total")
    return RankView(
        target.rank,
        target.node,
        step_seconds=step,
        own_seconds=step * (1.0 - waiting) if step is not None and waiting is not None else step,
        waiting=waiting,
        data_wait=waited / seconds if seconds > 0 else None,
        memory=_only(now, "uml_resident_memory_bytes"),
        gpu_memory=_only(now, "uml_gpu_memory_allocated_bytes"),
        gpu_utilization=_mean(now, "uml_gpu_utilization_ratio"),
        skipped=_total(now, "uml_samples_skipped_total"),
    )


def distributions(answers: Sequence[Samples]) -> dict[str, tuple[list[float], list[float]]]:
    """Return edges and counts of the vacuity of all ranks, by level."""
    bounds: dict[str, dict[float, float]] = {}
    for samples in answers:
        for labels, count in samples.get("uml_opinion_vacuity_bucket", {}).items():
            given = dict(labels)
            buckets = bounds.setdefault(given.get("level", ""), {})
            edge = float(given.get("le", "nan"))
            buckets[edge] = buckets.get(edge, 0.0) + count
    found = {}
    for level, buckets in sorted(bounds.items()):
        edges = sorted(edge for edge in buckets if 0.0 < edge <= 1.0)
        counts = [buckets[edge] - (buckets[edges[place - 1]] if place else 0.0) for place, edge in enumerate(edges)]
        if sum(counts) > 0:
            found[level] = ([0.0, *edges], counts)
    return found


def ask_all(targets: Sequence[Target], opener: OpenerDirector, token: str | None) -> list[Samples | str]:
    """Return the samples of each exporter, or why it gave none."""

    def ask(target: Target) -> Samples | str:
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            with opener.open(Request(target.url, headers=headers), timeout=SECONDS) as answer:
                return parse(answer.read(MAX_BYTES).decode())
        except Exception as error:  # whatever answers at that address
            return str(getattr(error, "reason", None) or error) or type(error).__name__

    with ThreadPoolExecutor(min(THREADS, len(targets))) as pool:
        return list(pool.map(ask, targets))


def parse(text: str) -> Samples:
    """Return the samples of a text of Prometheus, by name and labels; only those of ours.

    Raises:
        ValueError: it is no such text.
    """
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("uml_"):
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = float(sample.value)
    return found


def _total(samples: Samples, name: str) -> float:
    return sum(samples.get(name, {}).values())


def _only(samples: Samples, name: str) -> float | None:
    """Return the sum of a gauge over its labels; None if the rank does not export it."""
    return _total(samples, name) if samples.get(name) else None


def _mean(samples: Samples, name: str) -> float | None:
    values = samples.get(name, {}).values()
    return sum(values) / len(values) if values else None


def _steps(answers: Mapping[int, Samples]) -> float:
    return sum(_total(samples, STEPS) for samples in answers.values())


def _opener(metrics: Mapping[str, Any]) -> OpenerDirector:
    """Return what opens the addresses: directly, and trusting the run's own certificate."""
    certificate = metrics.get("certificate")
    context = ssl.create_default_context()
    if isinstance(certificate, str):
        try:
            context.load_verify_locations(certificate)
        except (OSError, ssl.SSLError):
            pass
    return build_opener(ProxyHandler({}), HTTPSHandler(context=context), _NoRedirects)


def _token(metrics: Mapping[str, Any]) -> str | None:
    path = metrics.get("token_file")
    if not isinstance(path, str):
        return None
    try:
        with Path(path).open("rb") as stream:
            return stream.read(4096).decode("ascii").strip()
    except (OSError, ValueError):
        return None
