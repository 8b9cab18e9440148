"""The files of the importer `folder`: images and masks by name, whatever people call them."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..errors import ShardError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Endings of the files that are read, in either case."""

_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm", ".h5", ".hdf5", ".npy", ".npz")
_BESIDE = (".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".pdf", ".tsv", ".txt", ".xlsx", ".xml", ".yaml")
"""Endings of what lies beside images and is none: Thumbs.db, desktop.ini, notes. Any other is an error, not a loss."""


def find_images(folder: Path) -> dict[str, Path]:
    """Name -> file, of all images under a folder.

    A name is the path below the folder without its ending, with forward slashes, in Unicode's composed form (NFC).

    Raises:
        ShardError: there is none; two have one name; or a file is of a kind that is not read.
    """
    if not folder.is_dir():
        raise ShardError(f"folder: {folder} is missing (`shards.py datasets` prints the tree)")
    found = _pictures(folder)
    if not found:
        raise ShardError(f"folder: {folder} holds no image ({', '.join(PICTURES)})")
    if twice := [paths for _, paths in sorted(found.items()) if len(paths) > 1]:
        first, second = twice[0][:2]
        raise ShardError(
            f"folder: {len(twice)} names in {folder} belong to two images, first {first} and {second.name}"
        )
    return {name: paths[0] for name, paths in sorted(found.items())}


def find_masks(folder: Path, images: Iterable[str]) -> dict[str, tuple[Path, ...]]:
    """Image name -> its masks, all that are called like it, or like it with `_` and anything behind.

    A mask that fits two images, a_1_mask to a and to a_1, is of the longer name. Images without a mask are left out.

    Raises:
        ShardError: a mask fits no image, or a file is of a kind that is not read.
    """
    names = set(images)
    found: dict[str, list[Path]] = defaultdict(list)
    orphans: list[Path] = []
    for name, paths in sorted(_pictures(folder).items()):
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
    """A name without the ending of an image, if it has one."""
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) if ending.lower() in PICTURES else name


def _owner(mask: str, images: set[str]) -> str | None:
    """The longest image name that the name of a mask is, or begins with before a `_`."""
    folder, slash, name = mask.rpartition("/")
    while name:
        if (candidate := f"{folder}{slash}{name}") in images:
            return candidate
        name = name.rpartition("_")[0]
    return None


def _pictures(folder: Path) -> Mapping[str, Sequence[Path]]:
    """Name -> files; hidden ones, and hidden folders, are passed over."""
    found: dict[str, list[Path]] = defaultdict(list)
    others: list[Path] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_dir() or any(part.startswith(".") for part in relative.parts):
            continue
        ending = path.suffix.lower()
        if ending in PICTURES:
            found[_name(relative)].append(path)
        elif ending not in _BESIDE:
            others.append(path)
    if others:
        volume = others[0].name.lower().endswith(_VOLUMES)
        todo = "is a volume or an array: export its slices as PNG" if volume else f"is none of {', '.join(PICTURES)}"
        raise ShardError(f"folder: {len(others)} files in {folder} cannot be read: {others[0]} {todo}, or take it away")
    return found


def _name(relative: Path) -> str:
    name = unicodedata.normalize("NFC", relative.with_suffix("").as_posix())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ShardError(f"folder: the file name {str(relative)!a} is not UTF-8: rename it") from None
    return name
