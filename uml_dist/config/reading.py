"""The tables of the configuration that decide which samples are read, and how."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from uml_shards.format.picture import MAX_PIXELS

from .section import RESUMABLE, Section

Augment = Literal["none", "light", "axial"]

MAX_BATCH = 1 << 16
"""Largest number of samples in a global batch."""

FOLD_SPLIT = "fold"
"""Name by which validations and evaluations read the held-out fold of a stream, with `data.folds`."""


def _possible(size: int | tuple[int, int, int]) -> int | tuple[int, int, int]:
    sides = size if isinstance(size, tuple) else (size, size)
    if min(sides) < 1:
        raise ValueError("must be greater than 0")
    if math.prod(sides) > MAX_PIXELS:
        raise ValueError(f"must be at most {MAX_PIXELS} pixels or voxels in all")
    return size


Size = Annotated[int | tuple[int, int, int], AfterValidator(_possible)]
"""Height and width of images, or [H, W, D] of patches of volumes."""


Weight = Annotated[float, Field(ge=0)]


class StreamConfig(Section):
    """`[streams.NAME]`: a named source of samples in every global batch."""

    shards: Annotated[str, RESUMABLE] = Field(description="folder or URL of a data set, with one folder per split")
    more_shards: Annotated[tuple[str, ...], RESUMABLE] = Field(
        default=(), description="further data sets of the same classes, whose samples join those of shards"
    )
    split: str = Field(default="train", description="split to read")
    part: Literal["all", "labelled", "unlabelled"] = Field(
        default="all",
        description="labelled: the samples with a mask (or, if none has a mask, with a label); unlabelled: all "
        "others, without their labels and masks",
    )
    labelled_ids: Annotated[str | None, RESUMABLE] = Field(
        default=None,
        description="file with the keys of the labelled samples, one per line; default: those with a mask or a label",
    )
    count: int = Field(gt=0, le=MAX_BATCH, description="samples of the stream in a global batch (its slots)")
    sampling: Literal["epoch", "balanced"] | dict[str, Weight] = Field(
        default="epoch",
        description="epoch: each sample once; balanced: all classes equally often; or the frequency of each class "
        "by name",
    )
    size: Size | None = Field(default=None, description="size of its images or patches; default: data.size")
    augment: Augment | None = Field(default=None, description="its augmentation; default: data.augment")
    weights: tuple[Weight, ...] | None = Field(
        default=None, description="frequency of each data set of shards and more_shards; default: each sample once"
    )

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights is not None and len(self.weights) != 1 + len(self.more_shards):
            sets = 1 + len(self.more_shards)
            raise ValueError(f"weights has {len(self.weights)} numbers, shards and more_shards name {sets} data sets")
        if self.weights is not None and self.sampling != "epoch":
            raise ValueError("weights of data sets and sampling by class exclude each other: leave one of them out")
        return self

    @model_validator(mode="after")
    def _part_fits(self) -> Self:
        if self.labelled_ids is not None and self.part == "all":
            raise ValueError("labelled_ids does nothing with part = all: set part to labelled or to unlabelled")
        if self.part == "unlabelled" and self.sampling != "epoch":
            raise ValueError("part = unlabelled withholds the labels that sampling by class needs: use sampling epoch")
        return self


class DataConfig(Section):
    """`[data]`: how samples are read."""

    workers: Annotated[Annotated[int, Field(ge=0, le=256)] | Literal["auto"], RESUMABLE] = Field(
        default="auto", description="processes per rank that read ahead; auto: none on the CPU, up to 4 with a GPU"
    )
    size: Size | None = Field(
        default=None,
        description="height and width of the images, or [H, W, D] of the patches of volumes; default: the manifest's",
    )
    augment: Augment = Field(
        default="light",
        description="light: flips, quarter turns and, for images, +-10 % scale; axial: for volumes, a turn in the "
        "plane of the first two axes and a flip along one of them; or none",
    )
    normalise: Literal["statistics", "unit"] = Field(
        default="statistics",
        description="statistics: by mean and standard deviation of the training data; unit: only scaled to [0, 1]",
    )
    cache: Annotated[str | None, RESUMABLE] = Field(
        default=None,
        description="folder that keeps shards read from URLs, and indices of millions of samples; "
        "default: uml_shards in ~/.cache",
    )
    cache_gigabytes: Annotated[float | None, RESUMABLE] = Field(
        default=None,
        gt=0,
        le=1e6,
        description="largest size of the cache; the least recently used shards are removed; default: no limit",
    )
    verify: Annotated[Literal["first-use", "never"], RESUMABLE] = Field(
        default="first-use",
        description="first-use: compare the sha256 of each local shard with the manifest's before its first read, "
        "once until the file changes; never: do not. Shards behind URLs are always compared",
    )
    window: int = Field(default=256, gt=0, le=10**6, description="samples among which a slot shuffles")
    on_bad_sample: Annotated[Literal["error", "skip"], RESUMABLE] = Field(
        default="error",
        description="error: stop at an unreadable sample; skip: replace it by a placeholder of weight 0",
    )
    folds: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="number of folds into which the samples of every stream's split are divided by patient and "
        "stratified by class; training leaves one of them out; 0: no folds",
    )
    fold: int = Field(default=0, ge=0, lt=1000, description="number of the held-out fold, from 0")
    fold_seed: int = Field(default=0, ge=0, lt=1 << 63, description="seed of the draw of the folds")

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds = 1 leaves nothing to train on: set 2 or more, or 0 for no folds")
        if not self.folds and (self.fold or self.fold_seed):
            raise ValueError("fold and fold_seed do nothing without folds: set folds to 2 or more")
        if self.folds and self.fold >= self.folds:
            raise ValueError(f"fold = {self.fold} is not one of {self.folds} folds: set 0 to {self.folds - 1}")
        return self
