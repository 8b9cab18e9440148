"""Checks a run before any rank starts: cheap, without building a network."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path
from typing import Any

from uml_shards.address import parse_location
from uml_shards.format.manifest import Manifest, Statistics
from uml_shards.read.samples import Samples
from uml_shards.read.split import Split
from uml_shards.read.stream import Stream

from ..config.loading import differences, is_resumable, validate
from ..config.reading import Augment
from ..config.schema import PhaseConfig, RunConfig, ValidationConfig
from ..errors import UmlError
from ..metrics.selection import Selection, check_selection, parse_selection
from ..recipes import Phase, Progress, Recipe, Trained, averages_in, networks_of, recipe_class
from ..run.checkpoint import RunState, latest_valid, read_state
from ..run.checkpoint_folder import checkpoints_in, find_checkpoint
from ..run.data import (
    Size,
    augmentation_of,
    check_dimensions,
    check_evaluation,
    check_stream,
    check_truth,
    fold_of,
    input_statistics,
    make_plan,
    make_streams,
    open_splits,
    open_stream_split,
    stated_size,
    stream_sizes,
)
from .rank_batch import RankBatch, rank_batch_of


@dataclass(frozen=True)
class Validation:
    """A split that is evaluated while training.

    Attributes:
        name: name in `[validations.NAME]`; "" for the main one, which `[train]` describes.
        split: the split.
        size: size of its images, or of windows.
        selection: the metric by which its best checkpoint is chosen.
    """

    name: str
    split: Split | Samples
    size: Size
    selection: Selection

    @property
    def pointer(self) -> str:
        """Name of the pointer to its best checkpoint."""
        return f"best-{self.name}" if self.name else "best"


@dataclass(frozen=True)
class Until:
    """The metric that ends a phase when it stops improving.

    Attributes:
        validation: name of the validation.
        selection: the metric.
        patience: validations without an improvement after which the phase ends.
    """

    validation: str
    selection: Selection
    patience: int


@dataclass(frozen=True)
class Setup:
    """A run, checked.

    Attributes:
        config: the configuration.
        recipe: the recipe with its configuration and manifests.
        splits: the samples of every stream.
        sizes: (H, W) of every stream's images, or (H, W, D) of the patches of its volumes.
        validations: the validations; the first is the main one.
        phases: the recipe's phases, each with its largest number of steps.
    """

    config: RunConfig
    recipe: Recipe
    splits: Mapping[str, Samples]
    sizes: Mapping[str, Size]
    validations: tuple[Validation, ...]
    phases: tuple[tuple[Phase, int], ...]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, if no phase ends early."""
        return sum(steps for _, steps in self.phases)

    @property
    def first_stream(self) -> str:
        """The stream by which epochs are counted and images normalised."""
        return next(iter(self.recipe.streams))

    @property
    def statistics(self) -> Statistics:
        """Statistics by which the images of all streams and validations are normalised."""
        return input_statistics(self.config, self.splits[self.first_stream].manifest)

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each stream's manifest; that of a part depends on its samples."""
        return {name: split.manifest.digest for name, split in self.splits.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user on what the run makes of its data."""
        fold = fold_of(self.config)
        return (*([] if fold is None else [f"{fold} is held out: no stream reads its samples"]), *self.recipe.notes)

    def progress(self, run: RunState) -> Progress:
        """Return how far a run is."""
        phase, steps = self.phases[min(run.phase, len(self.phases) - 1)]
        return Progress(run.step, self.steps, phase.name, run.phase_step, steps)

    def counts(self, phase: Phase) -> dict[str, int]:
        """Return the samples of each stream in the global batches of a phase."""
        return {name: phase.counts.get(name, self.config.streams[name].count) for name in phase.streams}

    def streams(self, phase: Phase) -> dict[str, Stream]:
        """Return the streams of a phase."""
        return make_streams(self.config, self.splits, self.counts(phase), self.sizes, self.statistics)

    def rank_batch(self, phase: Phase, rank: int, ranks: int) -> RankBatch:
        """Return the part of each global batch of a phase that a rank reads."""
        return rank_batch_of(self.config, self.counts(phase), rank, ranks)

    @property
    def augmentations(self) -> dict[str, Augment]:
        """The augmentations of the streams of volumes, which the Trainer applies to their batches."""
        manifests = {name: split.manifest for name, split in self.splits.items()}
        volumes = {name: manifest for name, manifest in manifests.items() if manifest.dimensions == 3}
        return {name: augmentation_of(self.config, name, manifest) for name, manifest in volumes.items()}

    def until(self, phase: Phase) -> Until | None:
        """Return the metric that ends a phase; None if it ends with its last step.

        Raises:
            UmlError: there is no such validation.
        """
        if phase.until is None:
            return None
        key = f"phases: until of {phase.name}"
        name, _, metric = phase.until.rpartition(".")
        if name not in (names := [validation.name for validation in self.validations]):
            known = f"there is {', '.join(filter(None, names))}" if names[1:] else "there is no [validations.NAME]"
            raise UmlError(f"{key} = {phase.until!r} names validation {name}, but {known}")
        return Until(name, parse_selection(metric, self.recipe.families, key), phase.patience)


def prepare(config: RunConfig, ranks: int) -> Setup:
    """Check a configuration against its data, its recipe and the number of ranks.

    What only a fresh run needs is left to `check_start`.

    Raises:
        UmlError, ShardError: they do not fit, in one line.
    """
    kind = recipe_class(config.recipe)
    required, given = set(kind.streams), set(config.streams)
    for name in sorted(required ^ given):
        problem = f"streams.{name} is missing" if name in required else f"streams.{name} is not used"
        raise UmlError(f"{problem}: recipe {config.recipe} has the streams {', '.join(kind.streams)}")
    splits = open_splits(config)
    manifests = {name: split.manifest for name, split in splits.items()}
    opened = {
        name: _open_validation(config, kind, name, given, manifests) for name, given in _validations(config).items()
    }
    for name, manifest in manifests.items():
        check_dimensions(kind, manifest, name)
        check_stream(config, kind, name, manifest, manifests, name)
    check_truth(kind, manifests)
    for name, (stream, split) in opened.items():
        title = f"validation {name}".rstrip()
        check_dimensions(kind, split.manifest, title)
        check_stream(config, kind, stream, split.manifest, manifests, title)
    recipe = kind(config, manifests)
    _check_networks(config, recipe)
    sizes = stream_sizes(config, manifests)
    validations = tuple(
        _validation(name, _validations(config)[name], recipe, split, sizes[stream])
        for name, (stream, split) in opened.items()
    )
    phases = _phases(config, recipe, manifests[next(iter(kind.streams))].samples)
    setup = Setup(config, recipe, splits, sizes, validations, phases)
    for phase, _ in phases:
        rank_batch = setup.rank_batch(phase, 0, ranks)
        for name, count in rank_batch.counts.items():
            make_plan(config, name, splits[name], count)  # fails here, and not on every rank
        setup.streams(phase)  # as well
        if rank_batch.accumulation > 1 and recipe.why_no_accumulation:
            raise UmlError(
                f"train.micro_batch = {config.train.micro_batch} splits a step into {rank_batch.accumulation} micro "
                f"batches, but {recipe.why_no_accumulation}"
            )
        if (until := setup.until(phase)) is not None:
            split = next(one.split for one in validations if one.name == until.validation)
            check_selection(until.selection, split.manifest, recipe.families)
    return setup


def _validations(config: RunConfig) -> dict[str, ValidationConfig]:
    """Return all validations by name; the main one, of `[train]`, is first and has the name ""."""
    return {"": ValidationConfig(best=config.train.best), **config.validations}


def _open_validation(
    config: RunConfig, kind: type[Recipe], name: str, given: ValidationConfig, manifests: Mapping[str, Manifest]
) -> tuple[str, Split | Samples]:
    """Return the stream of a validation, and its split."""
    stream = given.stream or next(iter(kind.streams))
    if stream not in kind.streams:
        raise UmlError(f"validations.{name}.stream = {stream!r}: the streams are {', '.join(kind.streams)}")
    split = given.split or config.train.validate_split
    return stream, open_stream_split(config, kind, stream, split, manifests)


def _validation(name: str, given: ValidationConfig, recipe: Recipe, split: Split | Samples, size: Size) -> Validation:
    key = f"validations.{name}" if name else "train"
    selection = parse_selection(given.best, recipe.families, f"{key}.best")
    check_selection(selection, split.manifest, recipe.families)
    if given.size is not None:
        size = stated_size(given.size, split.manifest, f"{key}.size")
    check_evaluation(recipe.config, split.manifest, size)
    return Validation(name, split, size, selection)


def find_resume(
    setup: Setup, run: Path, resume: str, say: Callable[[str], object] = print
) -> tuple[Path, RunState] | None:
    """Return the checkpoint to resume from, verified; None to start at step 0.

    Args:
        setup: the run as it is configured now.
        run: the run folder.
        resume: "auto" (the newest valid checkpoint of the folder, if any) or "never".
        say: called with one line if damaged checkpoints are passed over for an older one.

    Raises:
        UmlError: the folder contains a run and `resume` is "never"; no checkpoint is valid; or the checkpoint has
            another recipe or another configuration.
    """
    if run.exists() and not run.is_dir():
        raise UmlError(f"run folder {run} is a file: choose another --run")
    folder = run / "checkpoints"
    if resume == "never" and ((folder / "latest").exists() or checkpoints_in(folder)):
        raise UmlError(
            f"run folder {run} already contains a run: resume it with --resume auto, or choose another --run"
        )
    found = latest_valid(folder)
    if found is None:
        return None
    checkpoint, left = found
    state = read_state(checkpoint)
    if state.recipe != setup.config.recipe:
        raise UmlError(
            f"checkpoint {checkpoint} has recipe {state.recipe}, but the configuration has recipe "
            f"{setup.config.recipe}: choose another --run"
        )
    now = setup.config.model_dump(mode="json", exclude_none=True)
    found = list(differences(_with_defaults(state.config), now))
    # Another fold has other samples, but it is the setting that the user must know of.
    other_fold = any(one.key.startswith("data.fold") for one in found)
    for name, digest in setup.digests.items():
        if state.data.get(name, digest) != digest and not other_fold:
            stream = setup.config.streams[name]
            place = str(parse_location(stream.shards))
            place += f", or another list than {stream.labelled_ids}" if stream.labelled_ids else ""
            raise UmlError(f"run {run} was started with other shards than those in {place}: choose another --run")
    changed = [str(one) for one in found if not is_resumable(type(setup.config), one)]
    if changed:
        raise UmlError(f"run {run} was started with another configuration ({'; '.join(changed)}): choose another --run")
    if left:
        say(left)
    return checkpoint, state


def _with_defaults(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a checkpoint's configuration with defaults for newer settings, which stand for the earlier behaviour."""
    try:
        return validate(stored, "checkpoint").model_dump(mode="json", exclude_none=True)
    except UmlError:  # a setting that no longer exists is a difference, which names it
        return stored


def check_start(setup: Setup) -> None:
    """Check the weights that a fresh run starts from; a resumed run does not need them.

    Raises:
        UmlError: they are missing, damaged or do not fit.
    """
    init = setup.config.model.init
    if init:
        _check_init(setup.config, Path(init))
    else:
        setup.recipe.check_start()


def _check_init(config: RunConfig, path: Path) -> None:
    """Check that the weights to start from exist and, if known, have the same recipe."""
    checkpoint = find_checkpoint(path, "best") or find_checkpoint(path)
    if checkpoint is None and not (path.suffix == ".safetensors" and path.is_file()):
        raise UmlError(f"model.init = {str(path)!r} is neither a checkpoint, a run folder nor a safetensors file")
    recipe = read_state(checkpoint).recipe if checkpoint else config.recipe
    if recipe != config.recipe:
        raise UmlError(
            f"model.init = {str(path)!r} has recipe {recipe}, but the configuration has recipe {config.recipe}"
        )


def _check_networks(config: RunConfig, recipe: Recipe) -> None:
    """Check that `[networks.NAME]` names networks that are trained, and that there is an average to evaluate with.

    Raises:
        UmlError: one is not, or there is none; or `train.ema` does not fit the recipe.
    """
    if config.train.weights == "averaged" and not averages_in(networks_of(recipe)):
        raise UmlError(
            f"train.evaluate_with = 'averaged', but recipe {config.recipe} averages no network: set train.ema, such as "
            "train.ema=0.999"
        )
    trained = [name for name, network in recipe.networks.items() if isinstance(network, Trained)]
    for name in config.networks:
        if name not in trained:
            near = difflib.get_close_matches(name, trained, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(trained)}"
            raise UmlError(f"networks.{name}: recipe {config.recipe} trains no network {name!r}: {hint}")


def _phases(config: RunConfig, recipe: Recipe, samples: int) -> tuple[tuple[Phase, int], ...]:
    """Return the recipe's phases as the configuration changes them, with their steps."""
    given = {phase.name: phase for phase in config.phases}
    phases = [_override(phase, given.get(phase.name)) for phase in recipe.phases]
    names = [phase.name for phase in phases]
    for name in given:
        if name not in names:
            raise UmlError(f"phases: recipe {config.recipe} has no phase {name!r}: it has {', '.join(names)}")
    if len(given) < len(config.phases):
        raise UmlError(f"phases: a name occurs twice: {', '.join(phase.name for phase in config.phases)}")
    stated = {name: phase.steps for name, phase in given.items() if phase.steps is not None}
    if len(stated) == len(names) and (config.train.steps or config.train.epochs):
        raise UmlError("every phase states its steps: leave out train.steps and train.epochs")
    steps = config.train.steps
    if config.train.epochs is not None:
        steps = ceil(config.train.epochs * samples / config.streams[next(iter(recipe.streams))].count)
    if steps is None and len(stated) < len(names):
        raise UmlError("the length of the run is not stated: set train.steps or train.epochs")
    # Rounded where phases end, not phase by phase, so that the steps add up to those of the run.
    ends = [round(end * (steps or 0)) for end in accumulate(phase.share for phase in phases)]
    shares = (max(1, end - start) for start, end in pairwise([0, *ends]))
    return tuple((phase, stated.get(phase.name, share)) for phase, share in zip(phases, shares, strict=True))


def _override(phase: Phase, given: PhaseConfig | None) -> Phase:
    """Return a phase of the recipe with the configuration's counts and end."""
    if given is None:
        return phase
    for name in given.counts:
        if name not in phase.streams:
            raise UmlError(
                f"phases: counts of {phase.name} names stream {name!r}: the phase has {', '.join(phase.streams)}"
            )
    return replace(
        phase,
        counts={**phase.counts, **given.counts},
        until=given.until or phase.until,
        patience=given.patience or phase.patience,
    )
