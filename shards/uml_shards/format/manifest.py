"""The manifest: the JSON file that describes a split, stored beside its tars."""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..address import Location
from ..durable import replace_text
from ..errors import ShardError, one_line
from ..files import read_regular
from ..names import check_file_name, check_name, check_text
from ..sample import IGNORE, PICTURES
from ..strict_json import first_problem, parse_json
from .picture import MAX_PIXELS
from .volume import IMAGE as VOLUME

SCHEMA_VERSION = 2
"""Schema version of manifest and index; since version 2 the index contains labels."""

FILE_NAME = "manifest.json"

KEY_TABLE = "keys.csv"
"""Table from keys back to raw files, beside the splits of a data set; it is not part of the shards."""

MAX_BYTES = 1 << 26
"""Largest manifest that is read; enough for 200 000 shards."""

MAX_NUMBER = 1 << 48
"""Upper bound of all counts and sizes in bytes: 64-bit integers can add and multiply them."""

MAX_CHANNELS = 1 << 12
"""Largest number of channels of an image or a volume."""

MAX_VOXELS = 1 << 32
"""Largest number of voxels: the index has 32 bits for the size of a component."""

MAX_CLASSES = 1 << 16
"""Largest number of image classes: a larger label is probably not a class number."""

PLAIN_NAME = r"^[^/\\\x00-\x1f]*[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$"
"""A file name without a folder. Manifests may come from untrusted sources, so no other path is accepted."""


class Statistics(BaseModel):
    """Mean and standard deviation of each image channel over the split.

    Unsigned integers are scaled to [0, 1] by their largest value; signed integers and floats are taken as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(ge=0)], ...]


class Shard(BaseModel):
    """A tar and its index.

    Attributes:
        name: file name of the tar, without a folder.
        bytes: size of the tar in bytes.
        sha256: digest of the tar.
        samples: number of samples in the tar.
        index: file name of the index (see `uml_shards.format.index`).
        index_sha256: digest of the index file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=PLAIN_NAME)
    bytes: int = Field(gt=0, le=MAX_NUMBER)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    samples: int = Field(gt=0, le=MAX_NUMBER)
    index: str = Field(pattern=PLAIN_NAME)
    index_sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """Description of a split. Names and texts follow the rules of `uml_shards.names`.

    Attributes:
        schema_version: schema version of the file; readers refuse any other.
        dataset: name of the importer that wrote the split.
        split: train, val or test.
        channels: number of channels of every image.
        size: (H, W) of every image, or (H, W, D) of every volume; None if sizes differ.
        classes: names of the image classes, in label order; () without labels.
        mask_classes: names of the pixel classes, background first; () without masks or with named masks.
        mask_names: names of masks that may overlap, one `mask.<name>.png` each; () otherwise.
        components: extensions of the tar members, in the column order of the index.
        labelled: number of samples with a label.
        masked: number of samples with a mask.
        class_counts: number of labelled samples of each class.
        tasks: binary tasks for evaluation: name -> label numbers that count as positive.
        statistics: image statistics.
        notes: what the importer noted about samples: text -> number of samples.
        options: options of the importer (seed, size, lossless, ...).
        licence: licence of the data.
        source: origin of the data and what to cite.
        shards: the tars, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = SCHEMA_VERSION
    dataset: str
    split: str
    channels: int = Field(gt=0, le=MAX_CHANNELS)
    size: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=2, max_length=3)] | None
    classes: Annotated[tuple[str, ...], Field(max_length=MAX_CLASSES)] = ()
    mask_classes: Annotated[tuple[str, ...], Field(max_length=IGNORE)] = ()
    mask_names: tuple[str, ...] = ()
    components: Annotated[tuple[str, ...], Field(min_length=1)]
    labelled: int = Field(ge=0)
    masked: int = Field(ge=0)
    class_counts: tuple[Annotated[int, Field(ge=0)], ...] = ()
    tasks: dict[str, tuple[int, ...]] = {}
    statistics: Statistics
    notes: dict[str, int] = {}
    options: dict[str, Any] = {}
    licence: str
    source: str
    shards: tuple[Shard, ...] = Field(min_length=1)

    @field_validator("classes", "mask_classes", "mask_names", "components", "tasks")
    @classmethod
    def _check_names(cls, names: Any) -> Any:
        for name in names:
            check_name(name)
        return names

    @field_validator("dataset", "split")
    @classmethod
    def _check_file_name(cls, name: str) -> str:
        return check_file_name(name)  # runs are named after the data set, and folders of results after the split

    @field_validator("notes")
    @classmethod
    def _check_notes(cls, notes: dict[str, int]) -> dict[str, int]:
        for text in notes:
            check_text(text)
        return notes

    @field_validator("licence", "source")
    @classmethod
    def _check_text(cls, text: str) -> str:
        return check_text(text)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("classes", "mask_classes", "mask_names", "components"):
            values: tuple[str, ...] = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} contains the same name twice")
        for name in ("mean", "std"):
            if (length := len(getattr(self.statistics, name))) != self.channels:
                raise ValueError(f"statistics.{name} has {length} numbers, but there are {self.channels} channels")
        for name in ("labelled", "masked"):
            if (count := getattr(self, name)) > self.samples:
                raise ValueError(f"{name} is {count}, but there are {self.samples} samples")
        if len(self.class_counts) != len(self.classes) or sum(self.class_counts) != self.labelled:
            raise ValueError(
                f"class_counts has {len(self.class_counts)} numbers of sum {sum(self.class_counts)}, but there are "
                f"{len(self.classes)} classes and {self.labelled} labelled samples"
            )
        for name, labels in self.tasks.items():
            if not all(0 <= label < len(self.classes) for label in labels):
                raise ValueError(f"tasks.{name} names a label that is not one of {len(self.classes)} classes")
        if self.size is not None and len(self.size) != self.dimensions:
            raise ValueError(f"size has {len(self.size)} numbers, but the components are of {self.dimensions}D images")
        if self.size is not None and math.prod(self.size) > (MAX_PIXELS if len(self.size) == 2 else MAX_VOXELS):
            raise ValueError("size is larger than any image that is read")
        return self

    @property
    def samples(self) -> int:
        """Number of samples in the split."""
        return sum(shard.samples for shard in self.shards)

    @property
    def dimensions(self) -> Literal[2, 3]:
        """2 for images, 3 for volumes."""
        return 3 if VOLUME in self.components and not set(PICTURES) & set(self.components) else 2

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which includes the digests of the shards: equal for equal data anywhere.

        The notes do not count: they describe how the data were made.
        """
        return hashlib.sha256(self.model_dump_json(exclude={"notes"}).encode()).hexdigest()

    @classmethod
    def load(cls, directory: str | Path) -> "Manifest":
        """Read the manifest of a split folder.

        Raises:
            ShardError: the folder or its manifest is missing, or the manifest does not match the schema.
        """
        path = Path(directory) / FILE_NAME
        try:
            data = read_regular(path, MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            if any(path.parent.glob("*.tar")):
                hint = f"for plain webdataset tars run `python launchers/shards.py index {path.parent}`"
                raise ShardError(f"shard folder {path.parent} contains tars but no manifest.json: {hint}") from None
            problem = "contains no manifest.json" if path.parent.is_dir() else "does not exist"
            raise ShardError(f"shard folder {path.parent} {problem}: make shards first (`make shards`)") from None
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error.strerror}") from None
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Location) -> "Manifest":
        """Parse the bytes of a manifest file. The path is used in error messages.

        Raises:
            ShardError: the manifest does not match the schema.
        """
        try:
            manifest = cls.model_validate(parse_json(data))
            # That of several splits, which is never stored beside shards, may contain names twice.
            files = [name for shard in manifest.shards for name in (shard.name, shard.index)]
            if len(set(files)) < len(files):
                raise ValueError("shards contains the same file twice")
            return manifest
        except ValidationError as error:
            problem = first_problem(error)
        except Exception as error:  # whatever the parser raises on damaged data
            problem = one_line(error)
        hint = ": another version wrote these shards, make them again" if problem.startswith("schema_version") else ""
        raise ShardError(f"{path} is not a manifest of schema version {SCHEMA_VERSION}: {problem}{hint}")

    def save(self, directory: str | Path) -> None:
        """Write the manifest into a split folder, atomically."""
        replace_text(Path(directory) / FILE_NAME, self.model_dump_json(indent=1) + "\n")
