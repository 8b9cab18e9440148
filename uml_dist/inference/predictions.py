"""Predicts files with a trained run: `predict(run, inputs, out)`."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import UmlError
from ..run.load import Run, load_run
from .case import Case
from .coverage import rule_of
from .engine import Engine, Outcome
from .journal import Journal
from .names import assign_names
from .settings import PredictSettings
from .sources import Source, find_sources, join_channels
from .table import Row, write_failed, write_table
from .workers import Job, outcomes_of_workers

Input = str | os.PathLike[str]

TABLE, FAILED = "table.csv", "failed.csv"
EVALUATION_TABLES = ("windows", "evaluation")


@dataclass(frozen=True)
class Predictions:
    """What was predicted.

    Attributes:
        rows: a row per case, as in the table.
        failed: input -> why it has no prediction.
        cases: the cases with their maps, if no files were written.
        unused: kind of file -> number of such files in the given folders, which were not predicted.
        earlier: number of rows of earlier calls with the same folder.
    """

    rows: tuple[Row, ...]
    failed: Mapping[str, str]
    cases: tuple[Case, ...] = ()
    unused: Mapping[str, int] = field(default_factory=dict)
    earlier: int = 0


def predict(
    run: Run | Input,
    inputs: Input | Iterable[Input],
    out: Input | None = None,
    settings: PredictSettings | None = None,
    *,
    devices: Sequence[str] = (),
    progress: bool = False,
) -> Predictions:
    """Predict images, volumes, folders of them, or shards, with a trained run or exported weights.

    One bad file does not stop the others. If the folder of the predictions has some already, those of the same run and
    settings are kept, and only the others are made.

    Args:
        run: the run, or the folder of one or of exported weights.
        inputs: files, folders, patterns such as `scans/*.png`, or folders of shards.
        out: folder for masks, maps, pictures and the table; None: predictions are only returned.
        settings: the settings.
        devices: devices of the workers, such as ("cuda:0", "cuda:1"), which need `out`; () predicts in this process.
        progress: whether to show a progress bar on stderr, if that is a terminal.

    Raises:
        UmlError: the run does not exist, no input can be predicted, settings do not fit, or the folder cannot be used.
        ShardError: given shards are damaged.
        OSError: files cannot be written.
    """
    settings = settings or PredictSettings()
    run = run if isinstance(run, Run) else load_run(Path(run))
    folder = None if out is None else Path(out)
    if folder is None and len(devices) > 1:
        raise UmlError("several workers write files: name a folder by out")
    given = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    found = find_sources(given, folder)
    found = replace(found, sources=join_channels(found.sources, run.manifest.channels))
    engine = Engine(run, settings, folder)
    if settings.dicom_seg:
        from .dicom_seg import check_highdicom

        check_highdicom()
    if folder is None:
        return _in_memory(engine, found.sources, found.unused, progress)
    with closing(Journal(folder, run, settings)) as journal:
        left = [source for source in found.sources if not journal.has(source)]
        names = assign_names(found.sources, journal.names)
        batches = engine.batches(left)
        done, fresh = len(found.sources) - len(left), 0
        if len(devices) > 1 and len(batches) > 1:
            job = Job(_arguments(run), settings, folder, tuple(devices))
            outcomes = outcomes_of_workers(job, batches, names)
        else:
            outcomes = engine.outcomes(batches, names)
        try:
            with closing(outcomes):
                for outcome in _shown(outcomes, len(found.sources), done, progress):
                    if outcome.row is None:
                        journal.fail(outcome.source, outcome.reason)
                    else:
                        journal.finish(outcome.source, names[outcome.source.identity], outcome.row, outcome.files)
                        fresh += 1
        finally:
            rows = _write(journal, found.sources, run, settings)
    return Predictions(tuple(rows), dict(journal.failed), (), dict(found.unused), len(rows) - fresh)


def _in_memory(engine: Engine, sources: Sequence[Source], unused: Mapping[str, int], progress: bool) -> Predictions:
    names = assign_names(sources, {})
    rows, failed, cases = [], {}, []
    for outcome in _shown(engine.outcomes(engine.batches(sources), names), len(sources), 0, progress):
        if outcome.row is None:
            failed[outcome.source.shown] = outcome.reason
        else:
            rows.append(outcome.row)
            assert outcome.case is not None
            cases.append(outcome.case)
    return Predictions(tuple(_decided(rows, engine.run, engine.settings)), failed, tuple(cases), dict(unused))


def _write(journal: Journal, sources: Sequence[Source], run: Run, settings: PredictSettings) -> list[Row]:
    """Write table and failures: first the cases of this call in their order, then those of earlier calls."""
    order = {source.identity: place for place, source in enumerate(sources)}
    known = sorted(journal.finished, key=lambda identity: order.get(identity, len(order)))
    rows = _decided([journal.finished[identity]["row"] for identity in known], run, settings)
    write_table(journal.out / TABLE, rows)
    write_failed(journal.out / FAILED, journal.failed)
    return rows


def _decided(rows: Sequence[Row], run: Run, settings: PredictSettings) -> list[Row]:
    if settings.coverage is None:
        return list(rows)
    rule = rule_of(run, rows, settings.coverage, settings.flips)
    return [row if rule is None else {**row, **rule.decide(row)} for row in rows]


def _shown(outcomes: Iterator[Outcome], total: int, earlier: int, progress: bool) -> Iterator[Outcome]:
    bar = tqdm(outcomes, total=total, initial=earlier, unit="case", disable=None if progress else True, file=sys.stderr)
    yield from bar


def _arguments(run: Run) -> dict[str, Any]:
    """Return the arguments with which `load_run` reads a run again."""
    tables = {name: getattr(run.config, name).model_dump(mode="json", exclude_none=True) for name in EVALUATION_TABLES}
    return {
        "path": run.path,
        "checkpoint": "best" if run.checkpoint == run.path else run.checkpoint.name,
        "weights": run.weights,
        "settings": [
            f"{name}.{key}={json.dumps(value)}" for name, table in tables.items() for key, value in table.items()
        ],
    }
