"""What a run was trained on, as far as a new case must be like it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from uml_shards.sources.volume_preparing import Intensity, Spacing, Window
from uml_shards.strict_json import first_problem

from ..errors import UmlError
from ..run.load import Run


class Prepared(BaseModel):
    """Options of importers that decide how a file becomes a sample; the manifest of a run's data states them.

    `crop` and `margin` are of importers of photographs of the fundus, the others of those where they have an effect.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    size: int = 0
    lossless: bool = False
    channels: Literal["rgb", "grey"] | None = None
    exif: Literal["upright", "stored"] = "upright"
    crop: str | None = None
    margin: float | None = None
    voxel_size: Spacing = ()
    spacing: Spacing = ()
    window: Window = ()
    intensity: Intensity | Literal["auto"] = "keep"
    clip: float | None = None
    background: str = "zero"


@dataclass(frozen=True)
class Trained:
    """What a run was trained on, as far as a new case must be like it.

    Attributes:
        run: name of the run, for messages.
        dimensions: 2 for images, 3 for volumes.
        channels: number of channels.
        dataset: name of the importer.
        options: how the importer prepared the files.
    """

    run: str
    dimensions: int
    channels: int
    dataset: str
    options: Prepared

    @classmethod
    def of(cls, run: Run, prepare: Mapping[str, str]) -> "Trained":
        """Return what a run was trained on, with other settings of the preparation.

        Raises:
            UmlError: the importer has no such setting, or a value is not valid.
        """
        manifest = run.manifest
        known = [key for key in manifest.options if key in Prepared.model_fields]
        for key in prepare:
            if key not in known:
                there = ", ".join(known) or "none"
                raise UmlError(f"the data of run {run.path} were prepared without a setting {key!r}: there is {there}")
        try:
            options = Prepared.model_validate({**manifest.options, **prepare})
        except ValidationError as error:
            raise UmlError(f"preparation of the data of run {run.path}: {first_problem(error)}") from None
        return cls(run.path.name, manifest.dimensions, manifest.channels, manifest.dataset, options)

    @property
    def words(self) -> str:
        """What the run takes, for a message."""
        return f"run {self.run} was trained on {described(self.dimensions, self.channels)}"


def described(dimensions: int, channels: int) -> str:
    """Return a kind of data in words: images or volumes of so many channels."""
    colour = {(2, 1): " (grey)", (2, 3): " (colour)"}.get((dimensions, channels), "")
    return f"{'volumes' if dimensions == 3 else 'images'} of {channels} channel{'s' * (channels != 1)}{colour}"
