"""Evaluations for tests of reports, without a training: of generated images by a recipe without weights."""

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plain_recipe import PlainRecipe
from runs import PartlyKnown
from uml_dist.evaluate import Evaluation, Predictor, evaluate
from uml_dist.evaluate.results import metrics_record, write_cases, write_metrics
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read.plan import InOrder
from uml_shards.read.split import Split, open_split
from uml_shards.read.stream import Stream
from uml_shards.write.writer import write_split

DRAWS = 40
VERSIONS = {"python": "3.11.7", "torch": "2.13.0"}
CONFIG = 'recipe = "uml"\n\n[train]\nseed = {seed}\nbest = "dice"\n\n[optimizer]\nlr = {lr}\n'


def make_split(folder: Path, samples: int, gaps: bool = False) -> Split:
    """Write generated images of 16 pixels, some without label or mask if there are to be gaps."""
    kind = PartlyKnown if gaps else PhantomImporter
    importer = kind(options=Options(size=16, counts={folder.name: samples}, lossless=True))
    write_split(importer, folder.name, importer.splits()[folder.name], folder, quiet=True)
    return open_split(folder)


def predict_split(split: Split, **recipe: Any) -> tuple[Evaluation, Predictor, Stream]:
    """Return the evaluation of a split by `PlainRecipe`, with what predicted it."""
    assert split.manifest.size is not None
    predictor = Predictor(PlainRecipe(**recipe), {"plain": nn.Identity()}, torch.device("cpu"))
    stream = Stream(split, InOrder(len(split)), split.manifest.size, split.manifest.statistics)
    return evaluate(predictor, stream, 8, draws=DRAWS, examples=False), predictor, stream


def record_of(result: Evaluation, digest: str = "0" * 64, **changes: Any) -> dict[str, Any]:
    """Return a metrics.json as `evaluate.py` writes it."""
    facts = {"run": "run", "recipe": "uml", "checkpoint": "step-000400", "step": 400, "weights": "trained"}
    data = {"dataset": result.manifest.dataset, "split": result.manifest.split, "data_digest": digest}
    return {**facts, **data, **metrics_record(result), "versions": VERSIONS, **changes}


def write_run(
    run: Path, result: Evaluation, folder: str = "test", seed: int = 0, lr: float = 0.001, **changes: Any
) -> Path:
    """Write a run folder with an evaluation, and return it."""
    record = record_of(result, run=run.name, **changes)
    write_cases(run / "evaluation" / folder / "cases.csv", result)
    write_metrics(run / "evaluation" / folder / "metrics.json", record)
    (run / "config.toml").write_text(CONFIG.format(seed=seed, lr=lr))
    return run


def change_record(run: Path, folder: str = "test", **changes: Any) -> None:
    """Change entries of a metrics.json."""
    path = run / "evaluation" / folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def scale_metrics(run: Path, factor: float, folder: str = "test") -> None:
    """Multiply all metrics of an evaluation, as another training would give others."""
    path = run / "evaluation" / folder / "metrics.json"
    record = json.loads(path.read_text())
    record["metrics"] = {name: value * factor for name, value in record["metrics"].items()}
    path.write_text(json.dumps(record))


class Page(HTMLParser):
    """What a page consists of.

    Attributes:
        ids: ids of the elements, in order.
        tags: their tags.
        text: its text.
        addresses: what it refers to.
        handlers: attributes that would run something, or carry a style.
        rows: cells of the rows of all tables, as text.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given: Mapping[str, str | None] = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._in_cell = True
        for name, value in given.items():
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href"):
                self.addresses.append(value or "")
            if name.startswith("on") or name == "style":
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def row(self, first: str) -> list[str]:
        """Return the first row whose first cell begins so."""
        return next(row for row in self.rows if row and row[0].startswith(first))
