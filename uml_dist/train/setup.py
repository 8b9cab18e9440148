"""Everything about a run that can be known and checked before any rank starts: cheap, and no network is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path
from typing import Any

from uml_shards.address import parse_location
from uml_shards.format.manifest import Statistics
from uml_shards.read.joined import Samples
from uml_shards.read.split import Split

from ..config.loading import differences, is_resumable, validate
from ..config.schema import RunConfig
from ..errors import UmlError
from ..evaluate.selection import Selection, check_selection, parse_selection
from ..recipes import Phase, Progress, Recipe, recipe_class
from ..run.checkpoint import RunState, latest_valid, read_state
from ..run.checkpoint_folder import checkpoints_in, find_checkpoint
from ..run.data import (
    check_classes,
    check_dimensions,
    image_size,
    input_statistics,
    make_plan,
    open_splits,
    open_stream_split,
)
from .rank_batch import RankBatch, rank_batch_of


@dataclass(frozen=True)
class Setup:
    """A run, checked.

    Attributes:
        config: of the run.
        recipe: with its configuration and manifests.
        splits: of every stream.
        validation: the split of the validations.
        size: (H, W) of every sample, or (H, W, D) of every patch.
        phases: of the recipe, with their steps.
    """

    config: RunConfig
    recipe: Recipe
    splits: Mapping[str, Samples]
    validation: Split
    size: tuple[int, ...]
    phases: tuple[tuple[Phase, int], ...]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return sum(steps for _, steps in self.phases)

    @property
    def first_stream(self) -> str:
        """The stream by which epochs are counted and images normalised."""
        return self.recipe.stream_names[0]

    @property
    def statistics(self) -> Statistics:
        """By which the images of all streams and of the validation are normalised."""
        return input_statistics(self.config, self.splits[self.first_stream].manifest)

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each stream's manifest, which of a part tells which samples are in it."""
        return {name: split.manifest.digest for name, split in self.splits.items()}

    @property
    def selection(self) -> Selection:
        """What the best checkpoint is chosen by."""
        return parse_selection(self.config.train.best)

    def progress(self, run: RunState) -> Progress:
        """How far a run is."""
        phase, steps = self.phases[min(run.phase, len(self.phases) - 1)]
        return Progress(run.step, self.steps, phase.name, run.phase_step, steps)

    def rank_batch(self, phase: Phase, rank: int, ranks: int) -> RankBatch:
        """What a rank takes of each global batch of a phase."""
        return rank_batch_of(self.config, phase.streams, rank, ranks)


def prepare(config: RunConfig, ranks: int) -> Setup:
    """Check a configuration against its data, its recipe and the number of ranks.

    What only a fresh run needs is left to `check_start`.

    Raises:
        UmlError, ShardError: in one line, what does not fit.
    """
    kind = recipe_class(config.recipe)
    wanted, given = set(kind.stream_names), set(config.streams)
    for name in sorted(wanted ^ given):
        problem = f"streams.{name} is missing" if name in wanted else f"streams.{name} is not used"
        raise UmlError(f"{problem}: recipe {config.recipe} has the streams {', '.join(kind.stream_names)}")
    splits = open_splits(config)
    manifests = {name: split.manifest for name, split in splits.items()}
    first = kind.stream_names[0]
    validation = open_stream_split(config, first, config.train.validate_split)
    for name, manifest in {**manifests, "validation": validation.manifest}.items():
        check_dimensions(kind, manifest, name)
        check_classes(config, manifest, manifests[first], name)
    for name, split in splits.items():
        make_plan(config, name, split)  # says now, and not on every rank, what does not fit
    recipe = kind(config, manifests)
    phases = _phases(config, recipe, manifests[first].samples)
    for phase, _ in phases:
        rank_batch = rank_batch_of(config, phase.streams, 0, ranks)
        if rank_batch.accumulation > 1 and recipe.why_no_accumulation:
            raise UmlError(
                f"train.micro_batch = {config.train.micro_batch} splits a step into {rank_batch.accumulation} micro "
                f"batches, but {recipe.why_no_accumulation}"
            )
    check_selection(parse_selection(config.train.best), validation.manifest)
    return Setup(config, recipe, splits, validation, image_size(config, splits), phases)


def find_resume(
    setup: Setup, run: Path, resume: str, say: Callable[[str], object] = print
) -> tuple[Path, RunState] | None:
    """The checkpoint to go on from, verified; None to start at step 0.

    Args:
        setup: of the run as it is asked for now.
        run: its folder.
        resume: "auto" (the folder's newest whole checkpoint, if there is one) or "never".
        say: is told, in one line, of damaged checkpoints that are left for an older one.

    Raises:
        UmlError: the folder holds a run and `resume` is "never"; or no checkpoint is valid; or the checkpoint is of
            another recipe or of another configuration.
    """
    if run.exists() and not run.is_dir():
        raise UmlError(f"run folder {run} is a file: choose another --run")
    folder = run / "checkpoints"
    if resume == "never" and ((folder / "latest").exists() or checkpoints_in(folder)):
        raise UmlError(f"run folder {run} holds a run already: resume it with --resume auto, or choose another --run")
    found = latest_valid(folder)
    if found is None:
        return None
    checkpoint, left = found
    state = read_state(checkpoint)
    if state.recipe != setup.config.recipe:
        raise UmlError(
            f"checkpoint {checkpoint} is of recipe {state.recipe}, the configuration of recipe {setup.config.recipe}: "
            "choose another --run"
        )
    for name, digest in setup.digests.items():
        if state.data.get(name, digest) != digest:
            stream = setup.config.streams[name]
            now = str(parse_location(stream.shards))
            now += f", or another list than {stream.labelled_ids}" if stream.labelled_ids else ""
            raise UmlError(f"run {run} was started with other shards than those in {now}: choose another --run")
    now = setup.config.model_dump(mode="json", exclude_none=True)
    found = differences(_with_defaults(state.config), now)
    changed = [str(one) for one in found if not is_resumable(type(setup.config), one)]
    if changed:
        raise UmlError(f"run {run} was started with another configuration ({'; '.join(changed)}): choose another --run")
    if left:
        say(left)
    return checkpoint, state


def _with_defaults(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint's configuration with the settings that were added since; their defaults are what was done before."""
    try:
        return validate(stored, "checkpoint").model_dump(mode="json", exclude_none=True)
    except UmlError:  # a setting that no longer exists is a difference, which names it
        return stored


def check_start(setup: Setup) -> None:
    """Check the weights that a fresh run begins with; one that goes on needs them no more.

    Raises:
        UmlError: they are missing, damaged or do not fit.
    """
    init = setup.config.model.init
    if init:
        _check_init(setup.config, Path(init))
    else:
        setup.recipe.check_start()


def _check_init(config: RunConfig, path: Path) -> None:
    """What training is to start from must be there and, where that is known, of the same recipe."""
    checkpoint = find_checkpoint(path, "best") or find_checkpoint(path)
    if checkpoint is None and not (path.suffix == ".safetensors" and path.is_file()):
        raise UmlError(f"model.init = {str(path)!r} is neither a checkpoint, a run folder nor a safetensors file")
    recipe = read_state(checkpoint).recipe if checkpoint else config.recipe
    if recipe != config.recipe:
        raise UmlError(f"model.init = {str(path)!r} is of recipe {recipe}, the configuration of recipe {config.recipe}")


def _phases(config: RunConfig, recipe: Recipe, samples: int) -> tuple[tuple[Phase, int], ...]:
    stated = {phase.name: phase.steps for phase in config.phases}
    names = [phase.name for phase in recipe.phases]
    for name in stated:
        if name not in names:
            raise UmlError(f"phases: recipe {config.recipe} has no phase {name!r}: it has {', '.join(names)}")
    if len(stated) < len(config.phases):
        raise UmlError(f"phases: a name is there twice: {', '.join(phase.name for phase in config.phases)}")
    if len(stated) == len(names) and (config.train.steps or config.train.epochs):
        raise UmlError("every phase states its steps: leave out train.steps and train.epochs")
    steps = config.train.steps
    if config.train.epochs is not None:
        steps = ceil(config.train.epochs * samples / config.streams[recipe.stream_names[0]].count)
    if steps is None and len(stated) < len(names):
        raise UmlError("the length of the run is not stated: set train.steps or train.epochs")
    # Rounded where phases end, not phase by phase, so that the steps sum up to the whole.
    ends = [round(end * (steps or 0)) for end in accumulate(phase.share for phase in recipe.phases)]
    shares = (max(1, end - start) for start, end in pairwise([0, *ends]))
    return tuple((phase, stated.get(phase.name, share)) for phase, share in zip(recipe.phases, shares, strict=True))
