"""Configurations that are compiled to assess the kernels: each call of the library by classes, dtype and layout."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import uml_kernels
from compile import Compiled, compile_kernel
from launches import Launch, recorded
from uml_kernels import TermWeights

BATCH, SIDE, CHANNELS = 8, 1024, 64
PIXELS = BATCH * SIDE * SIDE
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Build(NamedTuple):
    """One call of the library on maps of 8 x classes x 1024 x 1024.

    Attributes:
        operation: name of the call.
        classes: number of classes C.
        dtype: dtype of the logits, such as "float32".
        channels_last: memory format of the logits.
        everywhere: whether it is compiled for every architecture, not only for sm_90.
    """

    operation: str
    classes: int
    dtype: str = "float32"
    channels_last: bool = False
    everywhere: bool = False

    @property
    def layout(self) -> str:
        """Position of the channels in the logits: "first" or "last"."""
        return "last" if self.channels_last else "first"

    def launches(self, architecture: str = "any") -> list[Launch]:
        """Return the launches of the call, forward and backward."""
        return recorded(partial(CALLS[self.operation], self), architecture)

    def maps(self, channels: int | None = None, side: int = SIDE) -> Tensor:
        """Return logits or features without data that require a gradient."""
        shape = (BATCH, self.classes if channels is None else channels, side, side)
        memory = torch.channels_last if self.channels_last else torch.contiguous_format
        x = torch.empty(shape, dtype=DTYPES[self.dtype], device="meta", memory_format=memory)
        return x.requires_grad_()

    def target(self) -> Tensor:
        """Return class indices without data."""
        return torch.empty(BATCH, SIDE, SIDE, dtype=torch.uint8, device="meta")


class Built(NamedTuple):
    """One compiled kernel of a build; counts are per pixel of the target map."""

    build: Build
    launch: Launch
    compiled: Compiled

    @property
    def instructions_per_pixel(self) -> float:
        """Instructions that the threads execute."""
        return self.compiled.executed * self._threads_per_pixel

    @property
    def special_per_pixel(self) -> float:
        """Instructions of the special-function unit that the threads execute."""
        return self.compiled.special * self._threads_per_pixel

    @property
    def bytes_per_pixel(self) -> float:
        """Bytes that a launch reads and writes, counting each tensor once."""
        return self.launch.bytes / PIXELS

    @property
    def _threads_per_pixel(self) -> float:
        return self.launch.programs * self.launch.warps * 32 / PIXELS


def _sums(build: Build, **options: Any) -> Any:
    sums = uml_kernels.evidential_sums(build.maps(), build.target(), **options)
    return sums.cross_entropy, sums.kl, *(sums.dice or ())


def _soft(build: Build) -> Any:
    sums = uml_kernels.evidential_sums(build.maps(), build.maps().detach())
    return sums.cross_entropy, sums.kl, *(sums.dice or ())


def _loss(build: Build) -> Tensor:
    return uml_kernels.evidential_loss(build.maps(), build.target(), 0.3, return_vacuity=True)[0]


def _map(build: Build) -> Tensor:
    return uml_kernels.evidential_loss(build.maps(), build.target(), 0.3, reduction="none")


def _weighted(build: Build) -> Any:
    return _sums(build, class_weight=torch.empty(build.classes, device="meta"))


def _opinion(build: Build) -> Any:
    opinion = uml_kernels.opinion(build.maps())
    return opinion.evidence, opinion.vacuity, opinion.gate


def _predictive(build: Build) -> Any:
    return uml_kernels.predictive_maps(build.maps())


def _gated(build: Build) -> Tensor:
    gate = torch.empty(BATCH, SIDE, SIDE, device="meta", requires_grad=True)
    return uml_kernels.gated(build.maps(CHANNELS), gate)


def _resized(build: Build) -> Tensor:
    return uml_kernels.resized(build.maps(side=SIDE // 2), (SIDE, SIDE))


def _levels(build: Build) -> Any:
    levels = [build.maps(side=SIDE >> level) for level in range(4)]
    return uml_kernels.level_sums(levels, build.target()).columns


def _maps(build: Build) -> Tensor:
    sums = uml_kernels.evidential_sums([build.maps() for _ in range(4)], build.target())
    return uml_kernels.combined_loss(sums, term_weights=[TermWeights(1.0, 1.0, 1.0)] * 4, kl_weight=0.3).loss


def _blob(build: Build) -> Tensor:
    """Return masks without data."""
    return torch.empty(BATCH, SIDE, SIDE, dtype=torch.bool, device="meta")


def _signed_distance(build: Build) -> Tensor:
    return uml_kernels.signed_distance(_blob(build))


def _spaced_distance(build: Build) -> Tensor:
    return uml_kernels.distance(_blob(build).unsqueeze(1), torch.empty(BATCH, 3, device="meta"))


def _passes(build: Build) -> Any:
    total = torch.zeros_like(build.maps().detach(), dtype=torch.float32)
    return uml_kernels.passes_entropy(uml_kernels.add_probability(total, build.maps()), 8, 0.75)


def _consistency(build: Build) -> Any:
    logits, distance = build.maps(), build.maps(build.classes - 1)
    teacher = build.maps().detach(), build.maps(build.classes - 1).detach()
    return tuple(uml_kernels.consistency_sums(logits, distance, *teacher, _blob(build), 1500.0))


CALLS: dict[str, Callable[[Build], Any]] = {
    "evidential_sums": _sums,
    "evidential_sums soft": _soft,
    "evidential_sums weighted": _weighted,
    "evidential_sums four maps": _maps,
    "evidential_loss": _loss,
    "evidential_loss none": _map,
    "opinion": _opinion,
    "predictive_maps": _predictive,
    "gated": _gated,
    "resized": _resized,
    "level_sums": _levels,
    "signed_distance": _signed_distance,
    "distance with spacing": _spaced_distance,
    "passes_entropy": _passes,
    "consistency_sums": _consistency,
}

WITHOUT_CLASSES = ("gated", "signed_distance", "distance with spacing")
"""Calls that do not depend on the number of classes."""


def builds() -> Iterator[Build]:
    """Yield every call with 2 and 3 classes for all architectures, and its variants for sm_90."""
    for operation in CALLS:
        plain = " " not in operation
        for classes in (3,) if operation in WITHOUT_CLASSES else (2, 3):
            yield Build(operation, classes, everywhere=plain)
        if not plain or operation == "signed_distance":
            continue
        yield Build(operation, 3, "bfloat16")
        yield Build(operation, 3, channels_last=True)
        for classes in () if operation in WITHOUT_CLASSES else (8, 16):
            yield Build(operation, classes)


def few() -> Iterator[Build]:
    """Yield the builds for the tests: every kernel for all architectures, and the variants with the most registers."""
    for operation in (
        "evidential_sums", "opinion", "predictive_maps", "gated", "resized", "signed_distance", "passes_entropy",
        "consistency_sums",
    ):  # fmt: skip
        yield Build(operation, 3, everywhere=True)
    yield Build("level_sums", 2, everywhere=True)
    for operation in ("evidential_loss", "evidential_loss none", "evidential_sums soft", "evidential_sums weighted"):
        yield Build(operation, 3)
    yield Build("evidential_sums four maps", 3)
    yield Build("evidential_sums", 3, "bfloat16")
    yield Build("evidential_sums", 3, channels_last=True)
    yield Build("evidential_sums", 2)
    yield Build("evidential_sums", 8)
    yield Build("evidential_loss", 3, channels_last=True)
    yield Build("opinion", 8)
    yield Build("consistency_sums", 8)
    yield Build("distance with spacing", 3)


def built(build: Build, architecture: str) -> list[Built]:
    """Compile the kernels of a build for an architecture; identical launches are compiled once."""
    kernels: dict[Any, Built] = {}
    for launch in build.launches(architecture):
        pointers, integers, constants = launch.pointers, launch.integers, launch.constants
        key = (launch.name, tuple(pointers.items()), tuple(constants.items()), launch.programs)
        if key not in kernels:
            compiled = compile_kernel(
                launch.kernel, pointers, integers, constants, architecture, launch.warps, launch.registers
            )
            kernels[key] = Built(build, launch, compiled)
    return list(kernels.values())
