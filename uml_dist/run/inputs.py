"""What a checkpoint holds of the run's inputs: the manifest of every stream, with classes, size and statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from uml_shards.format.manifest import Manifest, Statistics

from ..config.schema import RunConfig
from ..recipes import recipe_class
from .checkpoint import RunState
from .checkpoint_folder import USE_ANOTHER, DamagedError
from .data import Size, input_statistics, stream_sizes


@dataclass(frozen=True)
class Inputs:
    """What the networks of a run take, and the classes that they predict.

    Attributes:
        size: (H, W) of images, or (H, W, D) of patches of volumes.
        channels: number of channels.
        statistics: statistics by which images are normalised.
        classes: names of the image classes.
        pixel_classes: names of the pixel classes, background first, or of the lesions.
    """

    size: Size
    channels: int
    statistics: Statistics
    classes: tuple[str, ...]
    pixel_classes: tuple[str, ...]

    @classmethod
    def of(cls, config: RunConfig, manifests: Mapping[str, Manifest]) -> "Inputs":
        """Return the inputs of a run: those of its first stream."""
        first = next(iter(recipe_class(config.recipe).streams))
        manifest = manifests[first]
        return cls(
            size=stream_sizes(config, manifests)[first],
            channels=manifest.channels,
            statistics=input_statistics(config, manifest),
            classes=manifest.classes,
            pixel_classes=manifest.mask_classes or manifest.mask_names,
        )


def stored_manifests(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return the manifests of a run's streams as `RunState.manifests`."""
    return {name: manifest.model_dump(mode="json") for name, manifest in manifests.items()}


def manifests_of(state: RunState, checkpoint: Path) -> dict[str, Manifest]:
    """Return the manifests of a run's streams; none of a checkpoint from before they were stored.

    Args:
        state: the run state in the checkpoint.
        checkpoint: its folder, for errors.

    Raises:
        DamagedError: they are not manifests.
    """
    try:
        return {name: Manifest.model_validate(record) for name, record in state.manifests.items()}
    except (ValidationError, AttributeError):
        raise DamagedError(f"checkpoint {checkpoint} has no readable state.json{USE_ANOTHER}") from None
