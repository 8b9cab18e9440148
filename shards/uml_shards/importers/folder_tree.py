"""Find the files of the importer `folder`, and match masks to images by name."""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath

from ..errors import ShardError
from ..sources.dicom import ENDING as SLICE
from ..sources.volume_files import VOLUMES, ending

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Extensions of files read as 2D images, case-insensitive."""

_OTHER_VOLUMES = (".mha", ".mhd", ".mgz", ".nhdr", ".img", ".npy", ".npz", ".mat")
_READ = (*PICTURES, *VOLUMES)
BESIDE = (".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".pdf", ".tsv", ".txt", ".xlsx", ".xml", ".yaml")
"""Extensions of other files that are ignored, such as Thumbs.db, desktop.ini and notes. All others are errors."""


def find_images(folder: Path) -> dict[str, Path]:
    """Map name -> file for all 2D images in a folder, or for all volumes, each a file or a folder of DICOM files.

    A name is the path relative to the folder without its extension, with forward slashes, in Unicode's composed form
    (NFC).

    Raises:
        ShardError: there are no images, two files have the same name, 2D images and volumes are mixed, or a file has an
            unsupported extension.
    """
    if not folder.is_dir():
        raise ShardError(f"folder: {folder} is missing (`shards.py datasets` prints the tree)")
    pictures, volumes = _scan(folder)
    if pictures and volumes:
        first = min(volumes.values())[0]
        raise ShardError(
            f"folder: {folder} contains {len(pictures)} 2D images and {len(volumes)} volumes, which one data set "
            f"cannot mix: {first} is a volume: export its slices as PNG, or remove it"
        )
    found = pictures or volumes
    if not found:
        raise ShardError(f"folder: {folder} contains no images ({', '.join((*PICTURES, *VOLUMES))})")
    if twice := [paths for _, paths in sorted(found.items()) if len(paths) > 1]:
        first, second = twice[0][:2]
        raise ShardError(
            f"folder: {len(twice)} names in {folder} belong to two images, first {first} and {second.name}"
        )
    return {name: paths[0] for name, paths in sorted(found.items())}


def holds_volumes(folder: Path) -> bool:
    """Whether the images in a folder are volumes, judged by the first one."""
    files = (path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    return next((_ending(path) not in PICTURES for path in files if _ending(path) in (*_READ, SLICE)), False)


def find_masks(folder: Path, images: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Map image name -> its masks: files of the same name, optionally followed by `_` and any text.

    A mask that matches two images belongs to the longer name: a_1_mask belongs to a_1, not to a. Images without a mask
    are omitted.

    Raises:
        ShardError: a mask matches no image, a file has an unsupported extension, or masks are 2D and images are volumes
            or vice versa.
    """
    names = set(images)
    pictures, volumes = _scan(folder)
    of_volumes = bool(images) and _is_volume(next(iter(images.values())))
    if strange := pictures if of_volumes else volumes:
        kinds = ("2D images", "volumes") if of_volumes else ("volumes", "2D images")
        first = min(strange.values())[0]
        raise ShardError(f"folder: {first}: the masks are {kinds[0]} but the images are {kinds[1]}: use one kind")
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
    """Normalise slashes and accents of a name from a table, as `find_images` does for files."""
    return unicodedata.normalize("NFC", text.strip().replace("\\", "/"))


def without_ending(name: str) -> str:
    """Return a name without the extension of an image or a volume, if it has one."""
    found = _ending(PurePosixPath(name))
    return name[: len(name) - len(found)] if found in _READ else name


def _owner(mask: str, images: set[str]) -> str | None:
    """Return the longest image name that equals the mask's name, or a prefix of it before a `_`."""
    folder, slash, name = mask.rpartition("/")
    while name:
        if (candidate := f"{folder}{slash}{name}") in images:
            return candidate
        name = name.rpartition("_")[0]
    return None


def _scan(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Map name -> files, for 2D images and for volumes. Hidden files and folders are ignored."""
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
        hint = (
            "is an unsupported volume: store it as NIfTI" if volume else f"is not one of {', '.join(_READ)}: convert it"
        )
        raise ShardError(f"folder: {len(others)} files in {folder} cannot be read: {others[0]} {hint}, or remove it")
    return pictures, volumes


def _ending(path: PurePath) -> str:
    """Return the extension in lower case; .nii.gz counts as one."""
    return ending(path.name).lower() or path.suffix.lower()


def _is_hidden(relative: PurePath) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _is_volume(path: Path) -> bool:
    return _ending(path) in VOLUMES or path.is_dir()


def _series_name(slice_file: PurePath) -> str:
    """Return the name of the volume to which a DICOM file belongs: its folder."""
    if not slice_file.parent.parts:
        raise ShardError(
            f"folder: DICOM files such as {slice_file} are not in a subfolder: put each series into its own folder"
        )
    return _composed(slice_file.parent)


def _name(relative: PurePath) -> str:
    return without_ending(_composed(relative))


def _composed(relative: PurePath) -> str:
    """Return a path with forward slashes, in NFC."""
    name = unicodedata.normalize("NFC", relative.as_posix())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ShardError(f"folder: the file name {str(relative)!a} is not UTF-8: rename it") from None
    return name
