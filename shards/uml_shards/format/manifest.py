"""The manifest: the JSON file that describes a split, stored beside its tars."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..address import Location
from ..durable import replace_text
from ..errors import ShardError
from ..names import check_file_name, check_name, check_text
from ..sample import PICTURES
from .volume import IMAGE as VOLUME

SCHEMA_VERSION = 2
"""Schema version of manifest and index; since version 2 the index contains labels."""

FILE_NAME = "manifest.json"

KEY_TABLE = "keys.csv"
"""Table from keys back to raw files, beside the splits of a data set; it is not part of the shards."""

PLAIN_NAME = r"^[^/\\\x00-\x1f]*[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$"
"""A file name without a folder. Manifests may come from untrusted sources, so no other path is accepted."""


class Statistics(BaseModel):
    """Mean and standard deviation of each image channel over the split.

    Unsigned integers are scaled to [0, 1] by their largest value; signed integers and floats are taken as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    std: tuple[float, ...]


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
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    samples: int = Field(gt=0)
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
    channels: int = Field(gt=0)
    size: Annotated[tuple[int, ...], Field(min_length=2, max_length=3)] | None
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    components: tuple[str, ...]
    labelled: int = Field(ge=0)
    masked: int = Field(ge=0)
    class_counts: tuple[int, ...] = ()
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
            data = path.read_bytes()
        except FileNotFoundError:
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
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            message = first["msg"].removeprefix("Value error, ")
            problem = f"{path} is not a manifest of schema version {SCHEMA_VERSION}: {where}: {message}"
            hint = ": another version wrote these shards, make them again" if where == "schema_version" else ""
            raise ShardError(problem + hint) from None

    def save(self, directory: str | Path) -> None:
        """Write the manifest into a split folder, atomically."""
        replace_text(Path(directory) / FILE_NAME, self.model_dump_json(indent=1) + "\n")
