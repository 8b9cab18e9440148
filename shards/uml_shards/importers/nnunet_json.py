"""The two .json files of nnU-Net: what a data set holds, and its folds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ShardError
from ..sample import IGNORE

ENDINGS = (".nii.gz", ".nii", ".nrrd")


@dataclass(frozen=True)
class Description:
    """What dataset.json says.

    Attributes:
        channels: their names, in order.
        labels: names of the mask classes, background first.
        ignore: mask value of voxels that nobody is sure of.
        ending: of all files.
        training: number of training cases, if it is told.
    """

    channels: tuple[str, ...]
    labels: tuple[str, ...]
    ignore: int | None
    ending: str
    training: int | None


def read_description(path: Path) -> Description:
    """Read dataset.json: of nnU-Net v2; or of v1 and the Medical Segmentation Decathlon, with `modality`.

    Raises:
        ShardError: it is missing or damaged, or says something that cannot be followed.
    """
    said = _load(path, dict)
    channels = said.get("channel_names", said.get("modality"))
    if not isinstance(channels, dict) or not channels or set(channels) != {str(n) for n in range(len(channels))}:
        raise ShardError(f'nnunet: {path} needs channel_names (in v1 modality), such as {{"0": "CT"}}, from "0" on')
    if "dataset" in said:
        raise ShardError(f"nnunet: {path} names its files under dataset, which is not read: use imagesTr and labelsTr")
    ending = said.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        raise ShardError(f"nnunet: {path} has the file_ending {ending!r}: must be one of {', '.join(ENDINGS)}")
    training = said.get("numTraining")
    labels, ignore = _labels(said.get("labels"), path)
    names = tuple(str(channels[str(number)]) for number in range(len(channels)))
    return Description(names, labels, ignore, ending, training if isinstance(training, int) else None)


def read_fold(path: Path, fold: int) -> dict[str, list[str]]:
    """The cases of train and val of one fold of splits_final.json.

    Raises:
        ShardError: it is damaged, or has no such fold.
    """
    folds = _load(path, list)
    if not 0 <= fold < len(folds):
        raise ShardError(f"nnunet: setting fold={fold}: {path} has {len(folds)} folds: use 0 to {len(folds) - 1}")
    found = folds[fold]
    if not isinstance(found, dict) or not all(_is_names(found.get(split)) for split in ("train", "val")):
        raise ShardError(f"nnunet: {path}: fold {fold} must have the lists train and val, of names of cases")
    return {split: found[split] for split in ("train", "val")}


def _labels(said: Any, path: Path) -> tuple[tuple[str, ...], int | None]:
    """Class names in the order of their numbers, and the number of `ignore`."""
    if not isinstance(said, dict) or not said:
        raise ShardError(f'nnunet: {path} needs labels, such as {{"background": 0, "tumour": 1}}')
    # Before v2 it was number -> name, and no name had a meaning.
    old = all(key.isdecimal() and isinstance(value, str) for key, value in said.items())
    numbers: dict[str, Any] = {value: int(key) for key, value in said.items()} if old else dict(said)
    if len(numbers) != len(said):
        raise ShardError(f"nnunet: {path}: two labels have one name: rename one")
    for name, number in numbers.items():
        if isinstance(number, list):
            raise ShardError(f"nnunet: {path}: label {name!r} is a region, {number}: give each voxel one class")
        if type(number) is not int:
            raise ShardError(f"nnunet: {path}: label {name!r} is {number!r}: must be a whole number")
    ignore = None if old else numbers.pop("ignore", None)
    names = sorted(numbers, key=lambda name: numbers[name])
    if [numbers[name] for name in names] != list(range(len(names))) or not 2 <= len(names) <= IGNORE:
        found = ", ".join(str(numbers[name]) for name in names)
        raise ShardError(f"nnunet: {path}: labels must be 0 for the background, 1 and so on to 254, are {found}")
    if ignore not in (None, len(names)):
        raise ShardError(
            f"nnunet: {path}: label ignore is {ignore}: must be the number behind the others, {len(names)}"
        )
    return tuple(names), ignore


def _load(path: Path, kind: type) -> Any:
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ShardError(f"nnunet: {path} cannot be read: {reason}") from None
    if not isinstance(said, kind):
        raise ShardError(f"nnunet: {path} must hold a {'list' if kind is list else 'table of names and values'}")
    return said


def _is_names(said: Any) -> bool:
    return isinstance(said, list) and all(isinstance(name, str) for name in said)
