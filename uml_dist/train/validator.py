"""The validations of a run: their figures, the best checkpoint of each, and the phases that they end."""

from collections.abc import Mapping
from typing import Any

from ..config.section import Section
from ..evaluate import Evaluation, Predictor, evaluate
from ..metrics.selection import parse_selection
from ..recipes import Phase
from ..run.checkpoint import RunState
from ..run.data import evaluation_stream
from .report import Reporter
from .setup import Setup, Validation


class Validator:
    """Evaluates the validations of a run. Every rank comes to the same decisions.

    Args:
        setup: the run.
        reporter: receives the figures.
        workers: number of processes per rank that read ahead.
        pictures: whether this rank draws pictures.
    """

    def __init__(self, setup: Setup, reporter: Reporter, workers: int, pictures: bool) -> None:
        self._setup = setup
        self._config = setup.config
        self._reporter = reporter
        self._workers = workers
        self._pictures = pictures
        self._missing: dict[str, list[str]] = {}

    def validate(self, predictor: Predictor, batch_size: int, phase: Phase, state: RunState) -> list[Validation]:
        """Evaluate all validations and update the state; return those whose metric is the best so far.

        Args:
            predictor: the recipe with its networks.
            batch_size: samples per rank and batch.
            phase: the current phase.
            state: the state of the run; its best values, and whether the phase improves, are updated.
        """
        best = []
        for validation in self._setup.validations:
            result = self._evaluate(predictor, validation, batch_size)
            selection = validation.selection
            value = selection.value(result.metrics)
            figures = result.metrics if value is None else {**result.metrics, selection.name: value}
            rules = {"empty_masks": result.empty, "weights": self._config.train.weights}
            self._reporter.validated(state.step, figures, selection.name, rules, validation.name)
            self._note_missing(validation, selection.missing(result.metrics), result.left_out, state)
            self._reporter.picture(state.step, result.manifest, result.examples, validation.name)
            self._watch_phase(phase, validation, result.metrics, state)
            if value is not None and selection.is_better(value, _best(validation, state)):
                _set_best(validation, value, state)
                best.append(validation)
        return best

    def has_ended(self, phase: Phase, state: RunState) -> bool:
        """Whether a phase ends before its last step, because its metric no longer improves."""
        until = self._setup.until(phase)
        return until is not None and state.until_misses >= until.patience

    def forget_incomparable(self, state: RunState) -> None:
        """Forget the best values of a resumed run that were those of another figure."""
        for validation in self._setup.validations:
            if self._compares_otherwise(validation, state.config):
                _forget_best(validation, state)

    def report_missing(self, state: RunState) -> None:
        """Tell the user, at the end, of validations that have no best checkpoint."""
        for validation in self._setup.validations:
            selection, missing = validation.selection, self._missing.get(validation.name)
            if missing and _best(validation, state) is None:
                self._reporter.say(
                    f"no validation could form {selection.key} = {selection.name} (the last one lacked "
                    f"{', '.join(missing)}), so no checkpoint is the best: name one by --checkpoint, such as latest"
                )

    def _note_missing(
        self, validation: Validation, missing: list[str], needs: Mapping[str, str], state: RunState
    ) -> None:
        """Tell the user, once, that a validation cannot choose a best checkpoint, unless there is one already."""
        if missing and validation.name not in self._missing and _best(validation, state) is None:
            lacking = ", ".join(f"{name} (it needs {needs[name]})" for name in missing)
            self._reporter.say(
                f"{validation.selection.key} = {validation.selection.name} cannot be formed, since this validation "
                f"lacks {lacking}: without a later validation that can, no checkpoint is the best"
            )
        self._missing[validation.name] = missing

    def _evaluate(self, predictor: Predictor, validation: Validation, batch_size: int) -> Evaluation:
        stream = evaluation_stream(self._config, validation.split, validation.size, self._setup.statistics)
        empty = self._config.train.empty_masks
        return evaluate(predictor, stream, batch_size, self._workers, empty, examples=self._pictures)

    def _watch_phase(self, phase: Phase, validation: Validation, metrics: Mapping[str, float], state: RunState) -> None:
        """Count the validations in which the metric that ends the phase has not improved."""
        until = self._setup.until(phase)
        if until is None or until.validation != validation.name:
            return
        value = until.selection.value(metrics)
        if value is not None and until.selection.is_better(value, state.until_best):
            state.until_best, state.until_misses = value, 0
        else:
            state.until_misses += 1
        if self.has_ended(phase, state):
            self._reporter.say(
                f"phase {phase.name} ends at step {state.step}: {phase.until} has not improved in {until.patience} "
                "validations"
            )

    def _compares_otherwise(self, validation: Validation, before: Mapping[str, Any]) -> bool:
        """Whether a run's earlier configuration compared validations by another figure."""
        selection, families = validation.selection, self._setup.recipe.families
        stated = before.get("validations", {}).get(validation.name, {}) if validation.name else before["train"]
        if "best" not in stated:  # the validation is new
            return True
        train = self._config.train
        if train.model_copy(update={"evaluate_with": before["train"].get("evaluate_with")}).weights != train.weights:
            return True
        if _evaluates_otherwise(self._config.windows, before.get("windows", {})):
            return True
        if _evaluates_otherwise(self._config.evaluation, before.get("evaluation", {})):
            return True
        other_rule = before["train"].get("empty_masks", "one") != train.empty_masks
        other = parse_selection(stated["best"], families, selection.key) != selection
        return other or (other_rule and selection.by_empty_masks)


def _evaluates_otherwise(now: Section, before: Mapping[str, Any]) -> bool:
    """Whether a table that changes the figures of an evaluation was different; `batch` does not change them."""
    tables = (now, type(now).model_validate(before))
    first, second = (table.model_dump(exclude={"batch"}) for table in tables)
    return first != second


def _best(validation: Validation, state: RunState) -> float | None:
    return state.more_best.get(validation.name) if validation.name else state.best


def _set_best(validation: Validation, value: float, state: RunState) -> None:
    if validation.name:
        state.more_best = {**state.more_best, validation.name: value}
    else:
        state.best, state.best_step = value, state.step


def _forget_best(validation: Validation, state: RunState) -> None:
    if validation.name:
        state.more_best = {name: value for name, value in state.more_best.items() if name != validation.name}
    else:
        state.best = state.best_step = None
