"""Read the two .json files of nnU-Net: the description of a data set, and its folds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ShardError, reading
from ..names import check_name
from ..sample import IGNORE

ENDINGS = (".nii.gz", ".nii", ".nrrd")


@dataclass(frozen=True)
class Description:
    """The contents of dataset.json.

    Attributes:
        channels: names of the channels, in order.
        labels: names of the mask classes, background first.
        ignore: mask value of voxels to ignore, if any.
        ending: extension of all files.
        training: number of training cases, if stated.
    """

    channels: tuple[str, ...]
    labels: tuple[str, ...]
    ignore: int | None
    ending: str
    training: int | None


def read_description(path: Path) -> Description:
    """Read dataset.json of nnU-Net v2, or of v1 and the Medical Segmentation Decathlon (with `modality`).

    Raises:
        ShardError: the file is missing or damaged, or contains unsupported entries.
    """
    content = _load(path, dict)
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, dict) or not channels or set(channels) != {str(n) for n in range(len(channels))}:
        raise ShardError(f'nnunet: {path} needs channel_names (in v1 modality), such as {{"0": "CT"}}, from "0" on')
    if "dataset" in content:
        raise ShardError(
            f"nnunet: {path} lists its files in the entry dataset, which is not supported: use imagesTr and labelsTr"
        )
    ending = content.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        raise ShardError(f"nnunet: {path} has the file_ending {ending!r}: must be one of {', '.join(ENDINGS)}")
    training = content.get("numTraining")
    labels, ignore = _labels(content.get("labels"), path)
    names = tuple(str(channels[str(number)]) for number in range(len(channels)))
    return Description(names, labels, ignore, ending, training if isinstance(training, int) else None)


def read_fold(path: Path, fold: int) -> dict[str, list[str]]:
    """Read the train and val cases of a fold of splits_final.json.

    Raises:
        ShardError: the file is damaged or has no such fold.
    """
    folds = _load(path, list)
    if not 0 <= fold < len(folds):
        raise ShardError(f"nnunet: setting fold={fold}: {path} has {len(folds)} folds: use 0 to {len(folds) - 1}")
    found = folds[fold]
    if not isinstance(found, dict) or not all(_is_names(found.get(split)) for split in ("train", "val")):
        raise ShardError(f"nnunet: {path}: fold {fold} must have the lists train and val with names of cases")
    return {split: found[split] for split in ("train", "val")}


def _labels(entry: Any, path: Path) -> tuple[tuple[str, ...], int | None]:
    """Return the class names in the order of their numbers, and the number of the label `ignore`."""
    if not isinstance(entry, dict) or not entry:
        raise ShardError(f'nnunet: {path} needs labels, such as {{"background": 0, "tumour": 1}}')
    # Before v2, labels mapped number -> name, and the name "ignore" had no special meaning.
    old = all(key.isdecimal() and isinstance(value, str) for key, value in entry.items())
    numbers: dict[str, Any] = {value: int(key) for key, value in entry.items()} if old else dict(entry)
    if len(numbers) != len(entry):
        raise ShardError(f"nnunet: {path}: two labels have the same name: rename one")
    for name, number in numbers.items():
        check_name(name, f"nnunet: {path}: label")
        if isinstance(number, list):
            raise ShardError(
                f"nnunet: {path}: label {name!r} is a region, {number}, which is not supported: give each voxel one "
                "class"
            )
        if type(number) is not int:
            raise ShardError(f"nnunet: {path}: label {name!r} is {number!r}: must be an integer")
    ignore = None if old else numbers.pop("ignore", None)
    names = sorted(numbers, key=lambda name: numbers[name])
    if [numbers[name] for name in names] != list(range(len(names))) or not 2 <= len(names) <= IGNORE:
        found = ", ".join(str(numbers[name]) for name in names)
        raise ShardError(
            f"nnunet: {path}: labels must be consecutive from 0 for the background to at most 254, but are {found}"
        )
    if ignore not in (None, len(names)):
        raise ShardError(
            f"nnunet: {path}: label ignore is {ignore}: must be the number after the last label, {len(names)}"
        )
    return tuple(names), ignore


def _load(path: Path, kind: type) -> Any:
    with reading(f"nnunet: {path}"):
        content = json.loads(path.read_bytes())
    if not isinstance(content, kind):
        raise ShardError(f"nnunet: {path} must contain a JSON {'list' if kind is list else 'object'}")
    return content


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
