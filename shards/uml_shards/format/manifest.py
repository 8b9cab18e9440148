"""The manifest: the JSON that describes one split, beside its tars."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..address import Location
from ..errors import ShardError
from ..sample import PICTURES
from .volume import IMAGE as VOLUME

SCHEMA_VERSION = 2
"""Of manifest and index; from 2 on the index holds labels."""

FILE_NAME = "manifest.json"

PLAIN_NAME = r"^[^/\\\x00-\x1f]*[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$"
"""A file of the split's own folder, and no other: a manifest may come from anywhere."""


class Statistics(BaseModel):
    """Mean and standard deviation of each image channel over the split.

    Unsigned integers are scaled to [0, 1] by their largest value; signed integers and floats are taken as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Shard(BaseModel):
    """One tar and its index.

    Attributes:
        name: file name of the tar, without a folder.
        bytes: its size.
        sha256: its digest.
        samples: how many samples it holds.
        index: file name of its offsets (see `uml_shards.format.index`).
        index_sha256: the digest of that file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=PLAIN_NAME)
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    samples: int = Field(gt=0)
    index: str = Field(pattern=PLAIN_NAME)
    index_sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a split holds.

    Attributes:
        schema_version: of this file; readers refuse any other.
        dataset: name of the importer that made it.
        split: train, val or test.
        channels: of every image.
        size: (H, W) of every image, or (H, W, D) of every volume; None where sizes differ.
        classes: names of the image classes, in label order; () without labels.
        mask_classes: names of the pixel classes, background first; () without masks or with named masks.
        mask_names: names of the masks that may overlap, one `mask.<name>.png` each; () otherwise.
        components: extensions of the tar members, in the column order of the index.
        labelled: samples with a label.
        masked: samples with a mask.
        class_counts: labelled samples of each class.
        tasks: binary tasks for evaluation: name -> label numbers that count as positive.
        statistics: of the images.
        options: how the importer was called (seed, size, lossless, ...).
        licence: of the data.
        source: where the data come from, and what to cite.
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
    options: dict[str, Any] = {}
    licence: str
    source: str
    shards: tuple[Shard, ...] = Field(min_length=1)

    @property
    def samples(self) -> int:
        """Samples in the split."""
        return sum(shard.samples for shard in self.shards)

    @property
    def dimensions(self) -> Literal[2, 3]:
        """2 of images, 3 of volumes."""
        return 3 if VOLUME in self.components and not set(PICTURES) & set(self.components) else 2

    @property
    def digest(self) -> str:
        """Sha256 of all that it says, the digests of the shards among it: equal for the same data anywhere."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @classmethod
    def load(cls, directory: str | Path) -> "Manifest":
        """Read the manifest of a split folder.

        Raises:
            ShardError: the folder or its manifest is missing, or the manifest is not of this schema.
        """
        path = Path(directory) / FILE_NAME
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if any(path.parent.glob("*.tar")):
                hint = f"for plain webdataset tars run `python launchers/shards.py index {path.parent}`"
                raise ShardError(f"shard folder {path.parent} holds tars, but no manifest.json: {hint}") from None
            what = "holds no manifest.json" if path.parent.is_dir() else "does not exist"
            raise ShardError(f"shard folder {path.parent} {what}: make shards first (`make shards`)") from None
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error.strerror}") from None
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Location) -> "Manifest":
        """The manifest in the bytes of its file; the path is for errors.

        Raises:
            ShardError: it is not of this schema.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            what = f"{path} is no manifest of schema {SCHEMA_VERSION}: {where}: {first['msg']}"
            other = ": another version made these shards, make them again" if where == "schema_version" else ""
            raise ShardError(what + other) from None

    def save(self, directory: str | Path) -> None:
        """Write the manifest into a split folder: to a temporary file first, then renamed."""
        path = Path(directory) / FILE_NAME
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
