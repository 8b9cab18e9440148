"""Find the files of the importer `folder`, and match masks to images by name."""

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath, PurePosixPath

from ..errors import ShardError
from ..format.manifest import FILE_NAME as MANIFEST
from ..format.manifest import KEY_TABLE
from ..sources.dicom_files import dicom_kind
from ..sources.volume_files import VOLUMES, ending
from ..sources.walk import is_hidden, walk_files

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Extensions of files read as 2D images, case-insensitive."""

_OTHER_VOLUMES = (".mha", ".mhd", ".mgz", ".nhdr", ".img", ".npy", ".npz", ".mat")
_READ = (*PICTURES, *VOLUMES)
BESIDE = (".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".pdf", ".tsv", ".txt", ".xlsx", ".xml", ".yaml")
"""Extensions of other files that are not used, such as Thumbs.db, desktop.ini and notes. All others are errors."""

_PARTS = ("images", "masks")
"""Folders of RAW."""

_OF_A_MASK = r"(?:masks?|seg|segm|segmentations?|gt|ground[ _-]?truth|labels?|labelmap|annotations?|lesions?)"
_MASK_WORD = re.compile(rf"(?:^|[ _.-]+){_OF_A_MASK}(?:[ _.-]*\d+)?$|^{_OF_A_MASK}[ _.-]+", re.IGNORECASE)
"""The part of a name that marks a mask: the end of `benign (1)_mask_1`, or the start of `mask_1`."""

_IMAGE_FOLDER = re.compile(r"(?:images?|imgs?|originals?)", re.IGNORECASE)

Note = Callable[[str, int], None]
"""Takes the text and the number of a note, see `Importer.note`."""


def find_images(folder: Path, note: Note | None = None) -> dict[str, Path]:
    """Map name -> file for all 2D images in a folder, or for all volumes, each a file or a folder of DICOM files.

    A name is the path relative to the folder without its extension, with forward slashes, in Unicode's composed form
    (NFC).

    Args:
        folder: the folder; links in it are followed.
        note: told the number of files that are not used.

    Raises:
        ShardError: there are no images, two files have the same name, 2D images and volumes are mixed, masks lie among
            the images, or a file has an unsupported extension.
    """
    if not folder.is_dir():
        names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
        near = [name for name in names if difflib.get_close_matches(name.lower(), [folder.name])]
        hint = f": did you mean {folder.parent / near[0]}? Rename it" if near else ""
        raise ShardError(f"folder: {folder} is missing (`shards.py datasets` prints the tree){hint}")
    pictures, volumes = _scan(folder, note)
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
    images = {name: paths[0] for name, paths in sorted(found.items())}
    _refuse_masks(images)
    return images


def find_masks(folder: Path, images: Mapping[str, Path], note: Note | None = None) -> dict[str, tuple[Path, ...]]:
    """Map image name -> its masks: files of the same name, optionally followed by `_` and any text.

    A mask that matches two images belongs to the longer name: a_1_mask belongs to a_1, not to a. A mask that matches
    none may lie in a subfolder of masks of one kind: masks/cup/a.png belongs to a. Images without a mask are omitted.

    Args:
        folder: the folder, which may be missing; links in it are followed.
        images: name -> file, from `find_images`.
        note: told the number of files that are not used.

    Raises:
        ShardError: a mask matches no image, a file has an unsupported extension, or masks are 2D and images are volumes
            or vice versa.
    """
    names = set(images)
    pictures, volumes = _scan(folder, note) if folder.is_dir() else ({}, {})
    of_volumes = bool(images) and _is_volume(next(iter(images.values())))
    if strange := pictures if of_volumes else volumes:
        kinds = ("2D images", "volumes") if of_volumes else ("volumes", "2D images")
        first = min(strange.values())[0]
        raise ShardError(f"folder: {first}: the masks are {kinds[0]} but the images are {kinds[1]}: use one kind")
    found: dict[str, list[Path]] = defaultdict(list)
    orphans: list[Path] = []
    for name, paths in sorted((pictures or volumes).items()):
        owner = _owner(name, names) or _owner(name.partition("/")[2], names)
        if owner is None:
            orphans += paths
        else:
            found[owner] += paths
    if orphans:
        raise ShardError(f"folder: {len(orphans)} masks in {folder} belong to no image, first {orphans[0]}")
    return {name: tuple(paths) for name, paths in found.items()}


def report_unused(raw: Path, tables: Iterable[Path], note: Note) -> None:
    """Note the files of RAW that lie outside of images and masks, apart from the tables.

    Raises:
        ShardError: such a file is an image or a volume, so it was probably meant to be used.
    """
    given = set(tables)
    rest = [
        path
        for path in raw_files(raw)
        if path not in given and (path.relative_to(raw).parts[0] not in _PARTS or path.parent == raw)
    ]
    data = [
        path
        for path in rest
        if not is_hidden(path.relative_to(raw)) and (_kind(path.name) in (*_READ, *_OTHER_VOLUMES) or _is_slice(path))
    ]
    if data:
        where = data[0].relative_to(raw).parts
        near = difflib.get_close_matches(where[0].lower(), _PARTS, n=1) if len(where) > 1 else []
        hint = f"did you mean {raw / near[0]}?" if near else "move it into one of them, or out of RAW"
        raise ShardError(f"folder: {len(data)} files are neither in images nor in masks, first {data[0]}: {hint}")
    note_unused(raw, rest, note)


def raw_files(raw: Path) -> list[Path]:
    """Return all files of RAW apart from shards and their table of keys, which users may write into it."""
    files = walk_files(raw)
    splits = {path.parent for path in files if path.name == MANIFEST}
    return [path for path in files if path.parent not in splits and path.name != KEY_TABLE]


def note_unused(folder: Path, unused: Iterable[Path], note: Note) -> None:
    """Note how many files are not used, by reason, with the first one of each."""
    firsts: dict[str, Path] = {}
    counts: Counter[str] = Counter()
    for path in unused:
        reason = "hidden" if is_hidden(path.relative_to(folder)) else _kind(path.name) or "no extension"
        firsts.setdefault(reason, path)
        counts[reason] += 1
    for reason, count in sorted(counts.items()):
        note(f"files not used ({reason}), first {firsts[reason]}", count)


def holds_volumes(folder: Path) -> bool:
    """Whether the images in a folder are volumes, judged by the first one."""
    if not folder.is_dir():
        return False
    files = (path for path in walk_files(folder) if not is_hidden(path.relative_to(folder)))
    return next((_ending(path) not in PICTURES for path in files if _ending(path) in _READ or _is_slice(path)), False)


def normal_name(text: str) -> str:
    """Normalise slashes and accents of a name from a table, as `find_images` does for files."""
    return unicodedata.normalize("NFC", text.strip().replace("\\", "/"))


def without_ending(name: str) -> str:
    """Return a name without the extension of an image or a volume, if it has one."""
    found = _ending(PurePosixPath(name))
    return name[: len(name) - len(found)] if found in _READ else name


def mask_suffix(path: Path, image: str) -> str:
    """Return the text that a mask's file name adds to the name of its image: "cup" for a_cup.png of a."""
    return _name(PurePath(path.name))[len(image.rpartition("/")[2]) :].lstrip("_")


def _owner(mask: str, images: set[str]) -> str | None:
    """Return the longest image name that equals the mask's name, or a prefix of it before a `_`."""
    folder, slash, name = mask.rpartition("/")
    while name:
        if (candidate := f"{folder}{slash}{name}") in images:
            return candidate
        name = name.rpartition("_")[0]
    return None


def _refuse_masks(images: Mapping[str, Path]) -> None:
    """Refuse images whose names mark them as masks of other images."""
    plain = {_without_mask_words(name): name for name in images if not _is_named_mask(name)}
    masks = [name for name in images if _is_named_mask(name) and _without_mask_words(name) in plain]
    if masks:
        image = images[plain[_without_mask_words(masks[0])]]
        raise ShardError(
            f"folder: {len(masks)} of {len(images)} files in images are named like masks of others, first "
            f"{images[masks[0]]} beside {image.name}: move them into masks, or rename them"
        )


def _is_named_mask(name: str) -> bool:
    return any(_MASK_WORD.search(part) for part in name.split("/"))


def _without_mask_words(name: str) -> str:
    """Return the name that an image and its mask share, in lower case."""
    parts = [part for part in name.split("/") if not _IMAGE_FOLDER.fullmatch(part)]
    return "/".join(filter(None, (_MASK_WORD.sub("", part) for part in parts))).lower()


def _scan(folder: Path, note: Note | None) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Map name -> files, for 2D images and for volumes. Hidden files and folders are not used."""
    pictures: dict[str, list[Path]] = defaultdict(list)
    volumes: dict[str, list[Path]] = defaultdict(list)
    unused: list[Path] = []
    others: list[Path] = []
    for path in walk_files(folder):
        relative = path.relative_to(folder)
        kind = _ending(relative)
        if is_hidden(relative):
            unused.append(path)
        elif kind in PICTURES:
            pictures[_name(relative)].append(path)
        elif kind in VOLUMES:
            volumes[_name(relative)].append(path)
        elif kind in BESIDE or dicom_kind(path) == "index":
            unused.append(path)
        elif _is_slice(path):
            series = _series_name(relative)
            if path.parent not in volumes[series]:
                volumes[series].append(path.parent)
        else:
            others.append(path)
    if others:
        volume = others[0].name.lower().endswith(_OTHER_VOLUMES)
        hint = (
            "is an unsupported volume: store it as NIfTI"
            if volume
            else f"is neither DICOM nor one of {', '.join(_READ)}: convert it"
        )
        raise ShardError(f"folder: {len(others)} files in {folder} cannot be read: {others[0]} {hint}, or remove it")
    if note:
        note_unused(folder, unused, note)
    return pictures, volumes


def _kind(name: str) -> str:
    """Return the extension in lower case; .nii.gz counts as one."""
    return ending(name).lower() or PurePath(name).suffix.lower()


def _ending(path: PurePath) -> str:
    return _kind(path.name)


def _is_slice(path: Path) -> bool:
    return dicom_kind(path) == "slice"


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
