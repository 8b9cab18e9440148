"""Gets the metrics of a run's ranks: by HTTP where they are served, else from the files that ranks leave in the run."""

import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from prometheus_client.parser import text_string_to_metric_families

from .files import modified, names_in, read_bytes

if TYPE_CHECKING:
    from ..telemetry.targets import Target

SECONDS = 1.0
"""How long a rank may take to answer; it takes milliseconds."""

THREADS = 32
MAX_RANKS = 256
"""Most ranks that are asked; of a larger world, the first ones."""

MAX_BYTES = 4 << 20
FOLDER = "metrics"
"""Folder of a run in which each rank leaves its last values, a file `rank-N.prom` each."""

FILE = re.compile(r"rank-([0-9]{1,6})\.prom")

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[str, Mapping[Labels, float]]


@dataclass(frozen=True)
class Answer:
    """The metrics of a rank.

    Attributes:
        rank: index of the rank.
        node: name of its machine.
        samples: values by name and labels.
        written: when they were written into a file, in seconds since 1970; None: the rank answers now.
        problem: why there are none; "" if there are.
    """

    rank: int
    node: str = ""
    samples: Samples | None = None
    written: float | None = None
    problem: str = ""


def ask_ranks(run: Path, metrics: Mapping[str, Any], alive: bool) -> list[Answer]:
    """Return the metrics of a run's ranks, in order; [] if nothing is known of any.

    Args:
        run: the run folder.
        metrics: table `[metrics]` of its configuration.
        alive: whether its ranks may answer; otherwise only files are read.
    """
    answers = {one.rank: one for one in (_ask_all(run, metrics) if alive else [])}
    if not answers or any(one.samples is None for one in answers.values()):
        for left in read_files(run):
            if answers.get(left.rank, left).samples is None or left.rank not in answers:
                answers[left.rank] = left
    return [answers[rank] for rank in sorted(answers)][:MAX_RANKS]


def read_files(run: Path) -> list[Answer]:
    """Return the last values that ranks have left in the folder of a run."""
    found = []
    for name in names_in(run, FOLDER):
        match = FILE.fullmatch(name)
        data = read_bytes(run, FOLDER, name, limit=MAX_BYTES) if match else None
        if match and data is not None and len(found) < MAX_RANKS:
            with suppress(ValueError):  # another program's
                samples = parse(data.decode())
                found.append(Answer(int(match[1]), _node(samples), samples, modified(run, FOLDER, name)))
    return found


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


def _ask_all(run: Path, metrics: Mapping[str, Any]) -> list[Answer]:
    """Ask the ranks of the newest start of a run that serve their metrics."""
    from ..telemetry.targets import current_targets, sweep, targets_folder  # brings torch: not for ended runs

    setting = metrics.get("targets_dir")
    folder = targets_folder(setting if isinstance(setting, str) else None)
    if folder:
        sweep(folder)
    targets = [one for one in current_targets(folder) if one.folder == str(run)] if folder else []
    newest = max((one.attempt for one in targets), default=0)
    targets = [one for one in targets if one.attempt == newest][:MAX_RANKS]
    opener, token = _opener(metrics), _token(metrics)

    def ask(target: "Target") -> Answer:
        try:
            return Answer(target.rank, target.node, _fetch(target, opener, token))
        except Exception as error:  # whatever answers at that address
            problem = str(getattr(error, "reason", None) or error) or type(error).__name__
            return Answer(target.rank, target.node, problem=problem)

    if not targets:
        return []
    with ThreadPoolExecutor(min(THREADS, len(targets))) as pool:
        return list(pool.map(ask, targets))


def _fetch(target: "Target", opener: OpenerDirector, token: str | None) -> Samples:
    if target.loopback and target.node != socket.gethostname():
        raise OSError(f"it is served on {target.node} only")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{target.url}?{urlencode({'id': target.id})}"
    with opener.open(Request(url, headers=headers), timeout=SECONDS) as answer:
        return parse(answer.read(MAX_BYTES).decode())


def _node(samples: Samples) -> str:
    return next((dict(one).get("node", "") for labels in samples.values() for one in labels), "")


class _NoRedirects(HTTPRedirectHandler):
    """Refuses redirects: they could lead to any machine, with the token."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


def _opener(metrics: Mapping[str, Any]) -> OpenerDirector:
    """Return what opens the addresses: directly, and trusting the run's own certificate."""
    context = ssl.create_default_context()
    certificate = metrics.get("certificate")
    if isinstance(certificate, str):
        with suppress(OSError):
            context.load_verify_locations(certificate)
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


def totals(answers: Sequence[Samples], name: str) -> float:
    """Return the sum of a metric over its labels and ranks."""
    return sum(sum(samples.get(name, {}).values()) for samples in answers)
