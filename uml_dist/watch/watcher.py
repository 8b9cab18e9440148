"""Keeps what is known of the runs in a folder and renders their pages; a part is drawn anew only when it changed."""

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from . import page
from .curves import time_part
from .files import MAX_RUNS, find_runs, is_run, modified, read_bytes, subfolders
from .journal import Journal
from .ranks import PATIENCE_SECONDS, Ranks, RanksView
from .state import MAX_CONFIG, State, read_state, read_tables

SHEET = "sheet.png"
MAX_PICTURE = 32 << 20
MAX_PICTURES = 12

TAIL = 1 << 16
"""Bytes of the end of each metrics.jsonl from which the list of runs is made."""

KEPT = 8
"""Runs whose curves are kept in memory."""

LIST_SECONDS = 2.0
"""How long a list of the runs is used before the folder is searched again."""

WAIT_SECONDS = 15.0
"""How long a page that is written once waits for the answers of the ranks."""

SHARE = 0.05
"""Largest share of the time that may go into drawing the page of a run that changes all the time."""


class UnknownRunError(LookupError):
    """There is no such run, or no longer."""


class Watcher:
    """The runs of a folder. Several threads may ask.

    Args:
        root: a run folder, or a folder of runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._shown = str(root)
        self._lock = threading.Lock()
        self._listed = -LIST_SECONDS
        self._runs: dict[str, Path] = {}
        self._links = 0
        self._tails: dict[str, Journal] = {}
        self._views: OrderedDict[str, RunView] = OrderedDict()

    @property
    def single(self) -> bool:
        """Whether the folder is itself a run."""
        return is_run(self.root)

    def render(self, name: str | None = None, live: bool = True) -> str:
        """Return the page of a run, or the first page: the list of runs, or the only run.

        Raises:
            UnknownRunError: there is no such run.
        """
        if name is None and not self.single:
            return self._list_page(live)
        name = self.root.name if name is None else name
        return self._view(name).render(live, home=live and not self.single)

    def picture(self, name: str, evaluation: str) -> bytes:
        """Return the picture of an evaluation of a run.

        Raises:
            UnknownRunError: there is none.
        """
        folder = self._folder(name)
        data = None
        if evaluation in subfolders(folder, "evaluation"):
            data = read_bytes(folder, "evaluation", evaluation, SHEET, limit=MAX_PICTURE)
        if data is None:
            raise UnknownRunError("there is no such picture")
        return data

    def _folder(self, name: str) -> Path:
        if self.single:
            found = self.root if name == self.root.name else None
        else:
            found = self._find().get(name)
        if found is None or not is_run(found):
            raise UnknownRunError("there is no such run")
        return found

    def _find(self) -> dict[str, Path]:
        with self._lock:
            if time.monotonic() - self._listed >= LIST_SECONDS:
                self._runs, self._links = find_runs(self.root)
                self._listed = time.monotonic()
                for gone in [name for name in self._tails if name not in self._runs]:
                    del self._tails[gone]
            return self._runs

    def _view(self, name: str) -> "RunView":
        folder = self._folder(name)
        with self._lock:
            view = self._views.pop(name, None)
            if view is None or view.folder != folder:
                view = RunView(name, folder)
            self._views[name] = view
            while len(self._views) > KEPT:
                self._views.popitem(last=False)
            return view

    def _list_page(self, live: bool) -> str:
        runs = self._find()
        states = []
        with self._lock:
            for name, folder in runs.items():
                journal = self._tails.setdefault(name, Journal(folder, TAIL))
                journal.update()
                states.append(read_state(name, folder, journal))
        notes = []
        if self._links:
            notes.append(f"Links to other folders are not followed: {self._links} are left out.")
        if len(runs) == MAX_RUNS:
            notes.append(f"Only {MAX_RUNS} runs are listed: name a folder further down to see others.")
        return page.list_page(self._shown, states, notes, time.time(), live)


class RunView:
    """The page of one run.

    Args:
        name: name of the run.
        folder: its folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self._name = name
        self._journal = Journal(folder)
        self._ranks = Ranks(folder)
        self._lock = threading.Lock()
        self._drawn: dict[str, tuple[object, str]] = {}
        self._revision = -1
        self._rest_until = 0.0

    def render(self, live: bool, home: bool) -> str:
        """Return the page.

        Args:
            live: whether it is served, or written as a file.
            home: whether to link to the list of runs.
        """
        with self._lock:
            self._journal.update(seconds=2.0 if live else float("inf"))
            state = read_state(self._name, self.folder, self._journal)
            tables = read_tables(self.folder)
            metrics = tables.get("metrics")
            alive = state.status in ("running", "stalled")
            patience = PATIENCE_SECONDS if live else WAIT_SECONDS
            ranks = self._ranks.view(metrics if isinstance(metrics, dict) else {}, alive, patience)
            if time.monotonic() >= self._rest_until:
                self._revision = self._journal.revision
            started = time.thread_time()
            body = self._body(state, ranks, live, home)
            cost = time.thread_time() - started
            self._rest_until = max(self._rest_until, time.monotonic() + cost / SHARE)
        return page.document(f"{self._name}: {state.status} {page.percent(state.progress)}", body, live)

    def _body(self, state: State, ranks: RanksView, live: bool, home: bool) -> str:
        journal, revision = self._journal, self._revision
        sheets = self._sheets()
        return "".join(
            [
                page.part("head", page.run_head(state, time.time(), home)),
                self._part("curves", revision, lambda: page.curves_part(journal), "Curves"),
                self._part("time", revision, lambda: time_part(journal), "Where the time goes"),
                page.part("ranks", page.ranks_part(ranks), "Ranks"),
                self._part(
                    "vacuity",
                    (revision, ranks.problem, str(ranks.distributions)),
                    lambda: page.vacuity_part(journal, ranks),
                    "Uncertainty",
                ),
                page.part("pictures", page.pictures_part(sheets, self._link(live)), "Last pictures"),
                self._part("figures", revision, lambda: page.figures_part(journal), "All figures of validations"),
                page.part(
                    "configuration",
                    page.config_part(read_bytes(self.folder, "config.toml", limit=MAX_CONFIG)),
                    "Resolved configuration",
                ),
            ]
        )

    def _part(self, name: str, key: object, draw: Callable[[], str], title: str) -> str:
        """Return a part, drawn anew if its key has changed."""
        known = self._drawn.get(name)
        if known is None or known[0] != key:
            known = self._drawn[name] = (key, page.part(name, draw(), title))
        return known[1]

    def _sheets(self) -> dict[str, float]:
        """Return when the pictures of the evaluations were drawn, the newest first."""
        names = subfolders(self.folder, "evaluation")
        drawn = {name: at for name in names if (at := modified(self.folder, "evaluation", name, SHEET)) is not None}
        return dict(sorted(drawn.items(), key=lambda item: -item[1])[:MAX_PICTURES])

    def _link(self, live: bool) -> page.Link:
        def served(evaluation: str, version: str) -> str:
            words = {"name": self._name, "evaluation": evaluation, "version": version}
            return page.escape(f"/picture?{urlencode(words, errors='surrogateescape')}", 2000)

        def embedded(evaluation: str, _: str) -> str:
            data = read_bytes(self.folder, "evaluation", evaluation, SHEET, limit=MAX_PICTURE) or b""
            return f"data:image/png;base64,{base64.b64encode(data).decode()}"

        return served if live else embedded
