"""Finds the cases to predict: images and volumes in files and folders, and samples in shards."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from uml_shards.errors import ShardError
from uml_shards.format.manifest import FILE_NAME as MANIFEST
from uml_shards.importers.folder_tree import BESIDE, PICTURES
from uml_shards.read.split import open_split
from uml_shards.sources.dicom_files import dicom_kind
from uml_shards.sources.volume_files import VOLUMES, ending

from ..errors import UmlError

Kind = Literal["image", "volume", "sample"]

_CHANNEL = re.compile(r"(.+)_(\d{4})")
"""Name of a file with one channel of a case, as nnU-Net names them."""


@dataclass(frozen=True)
class Source:
    """A case to predict.

    Attributes:
        kind: "image", "volume", or "sample" of shards.
        path: a file, the folder of a DICOM series, or the folder of a split.
        title: what people call it: the path in the given folder without extension, or the key of the sample.
        number: number of the sample in its split; None for a file.
        more: the files of the further channels of a volume; `path` is that of the first one.
    """

    kind: Kind
    path: Path
    title: str
    number: int | None = None
    more: tuple[Path, ...] = ()

    @property
    def identity(self) -> str:
        """What identifies the case when a command is repeated: the absolute path, and the sample in a split."""
        path = os.path.abspath(self.path)
        return path if self.number is None else f"{path}#{self.title.rpartition('/')[2]}"

    @property
    def shown(self) -> str:
        """How tables and messages name the case: its path as given, and the sample in a split."""
        return str(self.path) if self.number is None else f"{self.path}: {self.title}"


@dataclass(frozen=True)
class Found:
    """The cases of all inputs.

    Attributes:
        sources: the cases, each once, in the order of the inputs.
        unused: kind of file that cannot be predicted -> number of such files in the given folders.
    """

    sources: tuple[Source, ...]
    unused: Counter[str] = field(default_factory=Counter)


def find_sources(inputs: Iterable[str | os.PathLike[str]], out: Path | None = None) -> Found:
    """Find the cases of inputs: files, folders with all their subfolders, patterns such as `scans/*.png`, or shards.

    A DICOM file stands for the series in its folder. In folders, hidden files and files of other kinds are counted but
    not used.

    Args:
        inputs: the inputs.
        out: a folder to leave out: that of the predictions, which may lie in an input.

    Raises:
        UmlError: an input does not exist, a pattern matches nothing, or none of the files can be predicted.
        ShardError: shards are damaged.
    """
    given, unused, found = list(inputs), Counter[str](), {}
    for text in given:
        for path in _expanded(os.fspath(text)):
            for source in _sources_in(path, unused, None if out is None else out.resolve()):
                found.setdefault(source.identity, source)
    if not found:
        names = ", ".join(map(str, given)) or "nothing"
        kinds = ", ".join((*PICTURES, *VOLUMES))
        raise UmlError(f"there is nothing to predict in {names}: name images ({kinds}), DICOM folders or shards")
    return Found(tuple(found.values()), unused)


def join_channels(sources: Sequence[Source], channels: int) -> tuple[Source, ...]:
    """Return the cases, where volumes named as nnU-Net does, a_0000.nii.gz to a_0002.nii.gz, are one of 3 channels.

    Args:
        sources: the cases.
        channels: number of channels that a case needs; files of other numbers stay cases of their own.
    """
    files: dict[tuple[Path, str, str], dict[int, Source]] = {}
    for source in sources:
        name = source.path.name[: len(source.path.name) - len(ending(source.path.name))]
        if source.kind == "volume" and (match := _CHANNEL.fullmatch(name)):
            files.setdefault((source.path.parent, match[1], ending(source.path.name)), {})[int(match[2])] = source
    joined: dict[str, Source | None] = {}
    for parts in files.values():
        if channels > 1 and sorted(parts) == list(range(channels)):
            first, *others = (parts[number] for number in range(channels))
            joined |= {other.identity: None for other in others}
            title = _CHANNEL.sub(r"\1", first.title)
            joined[first.identity] = replace(first, title=title, more=tuple(other.path for other in others))
    found = (joined.get(source.identity, source) for source in sources)
    return tuple(source for source in found if source is not None)


def _expanded(text: str) -> list[Path]:
    """Return an existing path, or the paths that match a pattern."""
    if os.path.lexists(text):
        return [Path(text)]
    if not glob.has_magic(text):
        raise UmlError(f"input {text} does not exist")
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise UmlError(f"no file matches the pattern {text}")
    return [Path(match) for match in matches]


def _sources_in(path: Path, unused: Counter[str], out: Path | None) -> Iterator[Source]:
    if not path.is_dir():
        yield _source_of(path, path.name)
        return
    folders = [path] if (path / MANIFEST).is_file() else [one for one in _folders(path) if (one / MANIFEST).is_file()]
    if folders:
        for folder in folders:
            yield from _samples(folder, several=len(folders) > 1)
        return
    own = path.resolve().name or "root"
    for file in _files(path, out):
        relative = file.relative_to(path)
        kind = _kind(file)
        if any(part.startswith(".") for part in relative.parts):
            unused["hidden"] += 1
        elif kind == "other":
            unused[file.suffix.lower() or "no extension"] += 1
        elif kind == "slice":
            yield Source("volume", file.parent, str(relative.parent) if relative.parent.parts else own)
        else:
            yield _source_of(file, relative.as_posix())


def _folders(folder: Path) -> list[Path]:
    try:
        return [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
    except OSError as error:
        raise UmlError(f"folder {folder} cannot be read: {error.strerror}") from None


def _samples(folder: Path, several: bool) -> Iterator[Source]:
    split = open_split(folder)
    for number, key in enumerate(split.keys()):
        yield Source("sample", folder, f"{folder.name}/{key}" if several else str(key), number)


def _source_of(path: Path, relative: str) -> Source:
    """Return the case of a file; one that no reader knows is an image, whose reader tells what is wrong."""
    kind = _kind(path)
    if kind == "slice":
        return Source("volume", path.parent, path.resolve().parent.name or "root")
    known = ending(path.name) or path.suffix
    title = relative[: len(relative) - len(known)] if known else relative
    return Source("volume" if kind == "volume" else "image", path, title or relative)


def _kind(path: Path) -> Literal["image", "volume", "slice", "other"]:
    if ending(path.name):
        return "volume"
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return "image"
    if suffix in BESIDE or not path.is_file():
        return "other"
    try:
        return "slice" if dicom_kind(path) == "slice" else "other"
    except ShardError:
        return "other"


def _files(folder: Path, out: Path | None, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield all files of a folder in the order of their names, through links; links that lead nowhere are files."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        found = folder.stat()
    except OSError as error:
        raise UmlError(f"folder {folder} cannot be read: {error.strerror}") from None
    place = (found.st_dev, found.st_ino)
    if place in above:
        raise UmlError(f"{folder} is a link to a folder that contains it: remove the link")
    for entry in entries:
        path = Path(entry.path)
        if not _is_folder(entry):
            yield path
        elif out is None or path.resolve() != out:
            yield from _files(path, out, (*above, place))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False
