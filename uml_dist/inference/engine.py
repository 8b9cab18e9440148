"""Predicts cases in batches, and reads ahead and writes in threads of their own."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from uml_shards.errors import ShardError, one_line
from uml_shards.read.augment import resize
from uml_shards.sample import Sample

from ..batch import batch_of
from ..errors import UmlError
from ..run.data import reads_whole
from ..run.load import Run
from .case import Case, Classes, rows_of
from .flips import predict_flipped
from .reading import Ready, read
from .settings import PredictSettings
from .sources import Source
from .table import row_of
from .trained import Trained
from .writing import write_case

AHEAD = 2
"""Batches that are read ahead."""

WRITERS = 2
"""Threads that write; they spend their time in compression, which runs in parallel."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        source: the case.
        row: its row of the table; None if it failed.
        files: the files that were written, relative to the folder of predictions.
        reason: why it failed.
        case: the prediction, if no files are written.
    """

    source: Source
    row: dict[str, Any] | None = None
    files: list[str] = field(default_factory=list)
    reason: str = ""
    case: Case | None = None


class Engine:
    """Predicts the cases of a run.

    Args:
        run: the run.
        settings: the settings.
        out: the folder of the predictions; None keeps predictions in memory.

    Raises:
        UmlError: the settings do not fit the run.
    """

    def __init__(self, run: Run, settings: PredictSettings, out: Path | None) -> None:
        self.run, self.settings, self.out = run, settings, out
        self.trained = Trained.of(run, settings.prepare)
        self.whole = reads_whole(run.config, run.manifest)
        self.classes = Classes.of(run.recipe.manifests.values())
        self._drawn = out is not None and "overlays" in settings.outputs

    def batches(self, sources: Sequence[Source]) -> list[Sequence[Source]]:
        """Return the batches of cases: of several, or of one where each has its own size.

        They depend on the cases alone, so that a case has the same prediction on any number of workers.
        """
        size = 1 if self.whole else self.settings.batch_size
        return [sources[start : start + size] for start in range(0, len(sources), size)]

    def outcomes(self, batches: Sequence[Sequence[Source]], names: dict[str, str]) -> Generator[Outcome]:
        """Yield what became of each case, in order.

        Args:
            batches: the cases.
            names: identity -> name, of every case.

        Raises:
            UmlError: the device has not enough memory.
            OSError: files cannot be written.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(WRITERS) as writers:
            # One thread reads, since libraries that decode images switch warnings off and on for the whole process.
            reading = deque(reader.submit(self._read, batch) for batch in batches[:AHEAD])
            writing: list[Future[Outcome]] = []
            try:
                for number in range(len(batches)):
                    ready = reading.popleft().result()
                    if number + AHEAD < len(batches):
                        reading.append(reader.submit(self._read, batches[number + AHEAD]))
                    made = self._predict(ready)
                    for done in writing:
                        yield done.result()
                    writing = [writers.submit(self._finish, one, names) for one in made]
                for done in writing:
                    yield done.result()
            except BaseException:
                reader.shutdown(cancel_futures=True)
                writers.shutdown(cancel_futures=True)
                raise

    def _read(self, batch: Sequence[Source]) -> list[Ready | Outcome]:
        return [self._read_one(source) for source in batch]

    def _read_one(self, source: Source) -> Ready | Outcome:
        try:
            return read(source, self.trained, self._drawn)
        except ShardError as error:
            return Outcome(source, reason=str(error))
        except MemoryError:
            return Outcome(source, reason=f"{source.shown} does not fit into memory")
        except Exception as error:  # of a library on damaged data: one bad file must not end the others
            return Outcome(source, reason=f"{source.shown} cannot be read: {one_line(error)}")

    def _predict(self, batch: Sequence[Ready | Outcome]) -> list[Case | Outcome]:
        ready = [one for one in batch if isinstance(one, Ready)]
        if not ready:
            return [one for one in batch if isinstance(one, Outcome)]
        size = self.run.sizes[self.run.first_stream]
        images = [one.image if self.whole else resize(Sample("", one.image), size).image for one in ready]
        inputs = batch_of(images, self.run.statistics).to(self.run.device)
        try:
            if self.settings.flips:
                prediction = predict_flipped(self.run.predictor, inputs, size)
            else:
                prediction = self.run.predict(inputs)
        except torch.OutOfMemoryError:
            shape = " x ".join(map(str, inputs.image.shape))
            raise UmlError(
                f"{self.run.device} has not enough memory for {shape} (batch, channels, axes), first "
                f"{ready[0].source.shown}: use a smaller --batch-size, or --cpu"
            ) from None
        cases = iter([Case(one, row, self.classes) for one, row in zip(ready, rows_of(prediction), strict=True)])
        return [next(cases) if isinstance(one, Ready) else one for one in batch]

    def _finish(self, case: Case | Outcome, names: dict[str, str]) -> Outcome:
        if isinstance(case, Outcome):
            return case
        name = names[case.source.identity]
        try:
            row = row_of(case, name)
            files = [] if self.out is None else write_case(case, name, self.out, self.settings)
        except (ShardError, MemoryError) as error:
            return Outcome(case.source, reason=f"{case.source.shown}: {one_line(error)}")
        return Outcome(case.source, row, files, case=case if self.out is None else None)
