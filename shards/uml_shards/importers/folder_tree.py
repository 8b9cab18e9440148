"""The files of the importer `folder`: images and masks by name, whatever people call them."""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath

from ..errors import ShardError
from ..sources.dicom import ENDING as SLICE
from ..sources.volume_files import VOLUMES, ending

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Endings of the files that are read as images of two dimensions, in either case."""

_OTHER_VOLUMES = (".mha", ".mhd", ".mgz", ".nhdr", ".img", ".npy", ".npz", ".mat")
_READ = (*PICTURES, *VOLUMES)
BESIDE = (".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".pdf", ".tsv", ".txt", ".xlsx", ".xml", ".yaml")
"""Endings of what lies beside images and is none: Thumbs.db, desktop.ini, notes. Any other is an error, not a loss."""


def find_images(folder: Path) -> dict[str, Path]:
    """Name -> file, of all images under a folder; or of all volumes, each a file or a folder of DICOM files.

    A name is the path below the folder without its ending, with forward slashes, in Unicode's composed form (NFC).

    Raises:
        ShardError: there is none; two have one name; there are pictures and volumes; or a file is of a kind that is
            not read.
    """
    if not folder.is_dir():
        raise ShardError(f"folder: {folder} is missing (`shards.py datasets` prints the tree)")
    pictures, volumes = _scan(folder)
    if pictures and volumes:
        first = min(volumes.values())[0]
        raise ShardError(
            f"folder: {folder} holds {len(pictures)} pictures and {len(volumes)} volumes, of which one data set is not "
            f"made: {first} is a volume or an array: export its slices as PNG, or take it away"
        )
    found = pictures or volumes
    if not found:
        raise ShardError(f"folder: {folder} holds no image ({', '.join((*PICTURES, *VOLUMES))})")
    if twice := [paths for _, paths in sorted(found.items()) if len(paths) > 1]:
        first, second = twice[0][:2]
        raise ShardError(
            f"folder: {len(twice)} names in {folder} belong to two images, first {first} and {second.name}"
        )
    return {name: paths[0] for name, paths in sorted(found.items())}


def holds_volumes(folder: Path) -> bool:
    """Whether the images under a folder are volumes; looks no further than the first."""
    files = (path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    return next((_ending(path) not in PICTURES for path in files if _ending(path) in (*_READ, SLICE)), False)


def find_masks(folder: Path, images: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Image name -> its masks, all that are called like it, or like it with `_` and anything behind.

    A mask that fits two images, a_1_mask to a and to a_1, is of the longer name. Images without a mask are left out.

    Raises:
        ShardError: a mask fits no image, or a file is of a kind that is not read, or not of that of the images.
    """
    names = set(images)
    pictures, volumes = _scan(folder)
    of_volumes = bool(images) and _is_volume(next(iter(images.values())))
    if strange := pictures if of_volumes else volumes:
        kinds = ("pictures", "volumes") if of_volumes else ("volumes", "pictures")
        first = min(strange.values())[0]
        raise ShardError(f"folder: {first}: masks are {kinds[0]} and images {kinds[1]}: they must be of one kind")
    found: dict[str, list[Path]] = defaultdict(list)
    orphans: list[Path] = []
    for name, paths in sorted((pictures or volumes).items()):
        owner = _owner(name, names)
        if owner is None:
            orphans += paths
        else:
            found[owner] += paths
    if orphans:
        raise ShardError(f"folder: {len(orphans)} masks in {folder} belong to no image, first {orphans[0]}")
    return {name: tuple(paths) for name, paths in found.items()}


def normal_name(text: str) -> str:
    """A name as `find_images` makes them, of what a table says: slashes and accents come in two ways."""
    return unicodedata.normalize("NFC", text.strip().replace("\\", "/"))


def without_ending(name: str) -> str:
    """A name without the ending of an image or a volume, if it has one."""
    found = _ending(PurePosixPath(name))
    return name[: len(name) - len(found)] if found in _READ else name


def _owner(mask: str, images: set[str]) -> str | None:
    """The longest image name that the name of a mask is, or begins with before a `_`."""
    folder, slash, name = mask.rpartition("/")
    while name:
        if (candidate := f"{folder}{slash}{name}") in images:
            return candidate
        name = name.rpartition("_")[0]
    return None


def _scan(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Name -> files, of pictures and of volumes; hidden ones, and hidden folders, are passed over."""
    pictures: dict[str, list[Path]] = defaultdict(list)
    volumes: dict[str, list[Path]] = defaultdict(list)
    others: list[Path] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_dir() or _is_hidden(relative):
            continue
        kind = _ending(relative)
        if kind in PICTURES:
            pictures[_name(relative)].append(path)
        elif kind in VOLUMES:
            volumes[_name(relative)].append(path)
        elif kind == SLICE:
            series = _series_name(relative)
            if path.parent not in volumes[series]:
                volumes[series].append(path.parent)
        elif kind not in BESIDE:
            others.append(path)
    if others:
        volume = others[0].name.lower().endswith(_OTHER_VOLUMES)
        todo = "is a volume that is not read: store it as NIfTI" if volume else f"is none of {', '.join(_READ)}"
        raise ShardError(f"folder: {len(others)} files in {folder} cannot be read: {others[0]} {todo}, or take it away")
    return pictures, volumes


def _ending(path: PurePath) -> str:
    """In lower case; .nii.gz is one."""
    return ending(path.name).lower() or path.suffix.lower()


def _is_hidden(relative: PurePath) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _is_volume(path: Path) -> bool:
    return _ending(path) in VOLUMES or path.is_dir()


def _series_name(slice_file: PurePath) -> str:
    """Of the volume that a DICOM file belongs to: its folder."""
    if not slice_file.parent.parts:
        raise ShardError(
            f"folder: DICOM files such as {slice_file} lie in no folder of their own: give each series one"
        )
    return _composed(slice_file.parent)


def _name(relative: PurePath) -> str:
    return without_ending(_composed(relative))


def _composed(relative: PurePath) -> str:
    """A path with forward slashes, in NFC."""
    name = unicodedata.normalize("NFC", relative.as_posix())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ShardError(f"folder: the file name {str(relative)!a} is not UTF-8: rename it") from None
    return name
