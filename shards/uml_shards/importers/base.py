"""What an importer is: the one thing to write for a new data set."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ShardError


@dataclass(frozen=True)
class Options:
    """How an importer is asked to work.

    Attributes:
        size: height and width of what is stored, in pixels; 0 keeps each image's own; None is the importer's default.
        seed: of whatever is drawn.
        lossless: store images that cannot keep their source bytes as PNG instead of JPEG.
        counts: split -> samples, for importers that make their data.
    """

    size: int | None = None
    seed: int = 0
    lossless: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """One split as an importer found it: cheap to make and to pickle, nothing decoded.

    Attributes:
        items: one small record a sample; only the importer knows what is in it.
        classes: names of the image classes, in label order; () without labels.
        mask_classes: names of the pixel classes, background first; () without masks or with named ones.
        mask_names: names of the masks that may overlap.
        tasks: binary tasks for evaluation: name -> label numbers that count as positive.
    """

    items: Sequence[Any]
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    tasks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Importer(ABC):
    """Turns a raw data set into samples. It is pickled into worker processes.

    Args:
        raw: folder of the raw data; importers that make their data ignore it.
        options: how to work.

    Raises:
        ShardError: the folder is missing, or an option does not fit this importer.

    Attributes:
        name: what `--dataset` calls it.
        summary: one line.
        licence: of the data.
        source: where the data come from, and what to cite.
        where: how to get them.
        tree: the layout expected on disk.
        default_size: of what is stored, in pixels.
        needs_raw: False when it makes its data.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    licence: ClassVar[str]
    source: ClassVar[str]
    where: ClassVar[str]
    tree: ClassVar[str]
    default_size: ClassVar[int]
    needs_raw: ClassVar[bool] = True

    def __init__(self, raw: str | Path | None = None, options: Options | None = None) -> None:
        self.options = options or Options()
        self.raw = Path(raw) if raw is not None and self.needs_raw else None
        size = self.options.size
        self.size = self.default_size if size is None else size
        if self.size < 0:
            raise ShardError(f"{self.name}: size {self.size} is negative: give pixels, or 0 to keep each image's own")
        if self.needs_raw:
            if self.raw is None or not self.raw.is_dir():
                what = "no raw folder given" if self.raw is None else f"raw folder {self.raw} does not exist"
                raise ShardError(f"{self.name}: {what}: {self.where}")
            if self.options.counts:
                raise ShardError(f"{self.name}: counts are only for data sets that are made, not imported")

    @property
    def manifest_options(self) -> dict[str, Any]:
        """What the manifest says about how the data were made."""
        return {"size": self.size, "seed": self.options.seed, "lossless": self.options.lossless}

    @abstractmethod
    def splits(self) -> dict[str, Source]:
        """The splits, by name.

        Raises:
            ShardError: the raw data are not laid out as `tree` says.
        """

    @abstractmethod
    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """The key of a sample and its components, extension -> bytes; called in worker processes.

        Raises:
            ShardError: the raw files of this sample cannot be used.
        """
