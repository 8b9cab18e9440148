"""The base class of importers. A new data set needs only a subclass."""

import difflib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from ..errors import ShardError
from ..names import check_name

TOTAL = " (total)"
"""Ends the name under which the total of a share is counted."""


_IN_MEMBER_NAME = re.compile("[A-Za-z0-9_-]{1,32}")
"""Names of masks, which become parts of the names of tar members."""


@dataclass(frozen=True)
class Options:
    """The options of an importer.

    Attributes:
        size: height and width to store, in pixels; 0 keeps each image's size; None is the importer's default.
        seed: random seed of drawn splits and generated data.
        lossless: whether to store images that cannot keep their source bytes as PNG instead of JPEG.
        counts: split -> number of samples, for importers that generate their data.
        settings: name -> text of importer-specific settings; see `Importer.settings_type`.
    """

    size: int | None = None
    seed: int = 0
    lossless: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a salt


class NoSettings(BaseModel):
    """The settings of an importer without settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Source:
    """A split found by an importer: cheap to create and to pickle, with nothing decoded.

    Raises:
        ShardError: a name of a class, mask or task is not allowed, see `uml_shards.names.check_name`.

    Attributes:
        items: one small record per sample, interpreted only by the importer.
        classes: names of the image classes, in label order; () without labels.
        mask_classes: names of the pixel classes, background first; () without masks or with named masks.
        mask_names: names of masks that may overlap.
        tasks: binary tasks for evaluation: name -> label numbers that count as positive.
    """

    items: Sequence[Any]
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    tasks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {
            "class": self.classes,
            "mask class": self.mask_classes,
            "mask": self.mask_names,
            "task": self.tasks,
        }
        for kind, names in kinds.items():
            for name in names:
                check_name(name, kind)
        for name in self.mask_names:
            if not _IN_MEMBER_NAME.fullmatch(name):
                raise ShardError(f"mask: the name {name!r} must be 1 to 32 letters, digits, _ or -: rename it")


class Importer(ABC):
    """Converts a raw data set to samples. Importers are pickled into worker processes.

    Args:
        raw: folder of the raw data; ignored by importers that generate their data.
        options: options of the importer.

    Raises:
        ShardError: the folder is missing, or an option is not valid for this importer.

    Attributes:
        name: name of the importer for `--dataset`.
        summary: description in one line.
        licence: licence of the data.
        source: origin of the data and what to cite.
        where: how to get the data.
        tree: expected folder layout of the raw data.
        default_size: default height and width to store, in pixels.
        needs_raw: whether raw data are needed; False if the importer generates its data.
        settings_type: frozen model of the settings for `--set key=value`; every field has a default and a description.
            All fields are stored in the manifest, except those with `exclude=True`, such as a salt.
        settings: the settings, an instance of `settings_type`.
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
            raise ShardError(f"{self.name}: size {self.size} is negative: give pixels, or 0 to keep each image's size")
        if self.needs_raw:
            if self.raw is None or not self.raw.is_dir():
                problem = "no raw folder given" if self.raw is None else f"raw folder {self.raw} does not exist"
                raise ShardError(f"{self.name}: {problem}: {self.where}")
            if self.options.counts:
                raise ShardError(f"{self.name}: counts are only for generated data sets, not for imported ones")
        self.settings = _read_settings(self.name, self.settings_type, self.options.settings)
        self._notes: Counter[str] = Counter()

    def refuse_size(self) -> None:
        """Refuse a size in pixels, which importers of volumes do not take.

        Raises:
            ShardError: a size is given.
        """
        if self.options.size:
            raise ShardError(
                f"{self.name}: --size {self.options.size} has no effect for volumes: use --set spacing=1,1,1, in mm"
            )

    def note(self, text: str, count: int = 1, of: int = 0) -> None:
        """Count something that users should know of, such as unused files or masks that lose a lesion when resized.

        Call it in `splits` for the data set, which `shards.py make` prints, and in `encode` for the sample, which is
        counted in the manifest and printed by `shards.py info`.

        Args:
            text: what was found and done, such as "masks blurred by JPEG, cut at half"; the same for all samples.
            count: number to add.
            of: for a share: the number of which `count` is a part. Both are summed, and the share is printed.
        """
        self._notes[text] += count
        if of:
            self._notes[text + TOTAL] += of

    def take_notes(self) -> Counter[str]:
        """Return the notes since the last call."""
        taken, self._notes = self._notes, Counter()
        return taken

    @property
    def manifest_options(self) -> dict[str, Any]:
        """The options stored in the manifest."""
        basic = {"size": self.size, "seed": self.options.seed, "lossless": self.options.lossless}
        return basic | self.settings.model_dump(mode="json")

    @classmethod
    def settings_help(cls) -> list[str]:
        """Return one help line per setting: its default and its description."""
        return [
            f"{f'--set {key}={_text(found.get_default(call_default_factory=True))}':<38} {found.description}"
            for key, found in cls.settings_type.model_fields.items()
        ]

    @abstractmethod
    def splits(self) -> dict[str, Source]:
        """Return the splits, by name.

        Raises:
            ShardError: the raw data do not have the layout described in `tree`.
        """

    def origin(self, item: Any) -> tuple[str, str] | None:
        """Return the key and the raw file of an item, for importers whose keys hide the file names.

        `shards.py make` writes them into a table that is not part of the shards.
        """
        return None

    @abstractmethod
    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        """Return the key of a sample and its components, extension -> bytes. Called in worker processes.

        Raises:
            ShardError: the raw files of this sample cannot be used.
        """


def with_shares(notes: Mapping[str, int]) -> dict[str, int]:
    """Return notes sorted by text, the total of each share as part of its text."""
    found = {}
    for text, count in notes.items():
        if total := notes.get(text + TOTAL):
            found[f"{text}, of {total} ({count / total:.1%})"] = count
        elif not text.endswith(TOTAL):
            found[text] = count
    return dict(sorted(found.items()))


def _read_settings(importer: str, kind: type[BaseModel], given: Mapping[str, str]) -> BaseModel:
    for key in given:
        if key not in kind.model_fields:
            near = difflib.get_close_matches(key, kind.model_fields, n=1)
            known = f"available: {', '.join(kind.model_fields)}" if kind.model_fields else "this importer has none"
            raise ShardError(f"{importer}: unknown setting {key!r}: {f'did you mean {near[0]}?' if near else known}")
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        where = f"setting {first['loc'][0]}={given[str(first['loc'][0])]!r}" if first["loc"] else "settings"
        raise ShardError(f"{importer}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def _text(value: Any) -> str:
    """Return a default value as typed on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
