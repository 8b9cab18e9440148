"""What an importer is: the one thing to write for a new data set."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from ..errors import ShardError


@dataclass(frozen=True)
class Options:
    """How an importer is asked to work.

    Attributes:
        size: height and width of what is stored, in pixels; 0 keeps each image's own; None is the importer's default.
        seed: of whatever is drawn.
        lossless: store images that cannot keep their source bytes as PNG instead of JPEG.
        counts: split -> samples, for importers that make their data.
        settings: name -> text, of what only this importer knows; see `Importer.settings_type`.
    """

    size: int | None = None
    seed: int = 0
    lossless: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a salt


class NoSettings(BaseModel):
    """The settings of an importer that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
        settings_type: a frozen model of what `--set key=value` may say, each field with a default and a description.
            All go into the manifest but those with `exclude=True`, such as a salt.
        settings: an object of that type.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    licence: ClassVar[str]
    source: ClassVar[str]
    where: ClassVar[str]
    tree: ClassVar[str]
    default_size: ClassVar[int]
    needs_raw: ClassVar[bool] = True
    settings_type: ClassVar[type[BaseModel]] = NoSettings
    settings: Any

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
        self.settings = _read_settings(self.name, self.settings_type, self.options.settings)

    @property
    def manifest_options(self) -> dict[str, Any]:
        """What the manifest says about how the data were made."""
        basic = {"size": self.size, "seed": self.options.seed, "lossless": self.options.lossless}
        return basic | self.settings.model_dump(mode="json")

    @classmethod
    def settings_help(cls) -> list[str]:
        """One line for each setting: its default, and what it does."""
        return [
            f"{f'--set {key}={_text(found.get_default(call_default_factory=True))}':<38} {found.description}"
            for key, found in cls.settings_type.model_fields.items()
        ]

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


def _read_settings(importer: str, kind: type[BaseModel], given: Mapping[str, str]) -> BaseModel:
    for key in given:
        if key not in kind.model_fields:
            near = difflib.get_close_matches(key, kind.model_fields, n=1)
            known = f"it has {', '.join(kind.model_fields)}" if kind.model_fields else "it has none"
            raise ShardError(f"{importer}: unknown setting {key!r}: {f'did you mean {near[0]}?' if near else known}")
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        where = f"setting {first['loc'][0]}={given[str(first['loc'][0])]!r}" if first["loc"] else "settings"
        raise ShardError(f"{importer}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def _text(value: Any) -> str:
    """A default as it is typed."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
