"""Join the mask files of an image: one for each class, for each name, for each lesion or for each observer."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..sample import IGNORE
from ..sources.masks import MaskValues
from .folder_tree import mask_suffix

Observers = Literal["", "first", "union", "majority", "consensus"]
"""What several masks of one class are, apart from disjoint ones: drawings of several observers, joined in this way."""

MaskFiles = tuple[tuple[int, Path], ...]
"""(class, file) of each mask of an image; class 0 stands for a file of class numbers."""

_NUMBER = re.compile(r"[ _.()-]*\d*[ )]*$")
"""The end of a name that counts masks of one kind: lesion_2, mask (3)."""


@dataclass(frozen=True)
class Joining:
    """How the mask files of an image become one mask, or one for each name.

    Attributes:
        classes: names of the pixel classes, background first; with `overlapping`, of the masks.
        values: interpretation of the values of a file.
        observers: how drawings of several observers are joined; "" if there is one.
        threshold: fraction of full scale from which a soft map is foreground; None for masks of two values.
        overlapping: whether each class has a mask of its own, see `separate`.
    """

    classes: tuple[str, ...]
    values: MaskValues = "binary"
    observers: Observers = ""
    threshold: float | None = None
    overlapping: bool = False

    def assign(self, masks: Mapping[str, Sequence[Path]], folder: Path) -> dict[str, MaskFiles]:
        """Map image name -> the class of each of its mask files.

        If there are more than two classes, or masks may overlap, the file name adds the name of its class to that of
        the image, or the file is in a subfolder of that name: a_cup.png or cup/a.png for the class cup of image a.

        Args:
            masks: image name -> files.
            folder: folder of the masks.

        Raises:
            ShardError: a file belongs to no class, or it is not clear how several files belong together.
        """
        return {name: tuple(self._classes_of(name, paths, folder)) for name, paths in masks.items()}

    def join(
        self, files: MaskFiles, read: Callable[[Path], NDArray[np.uint8]], note: Callable[[str], None]
    ) -> NDArray[np.uint8]:
        """Read the files of an image and return its mask. Later classes cover earlier ones.

        Args:
            files: the files, from `assign`.
            read: reads a file; all files of an image have the same shape.
            note: told in one line what was joined.

        Raises:
            ShardError: two masks of a class overlap, but `observers` is not stated.
        """
        if self.values == "classes":
            return read(files[0][1])
        drawn = self._join_classes(files, read, note)
        joined = np.zeros(next(iter(drawn.values())).shape, np.uint8)
        for number, marked in drawn.items():
            joined[marked] = number
        if len(self.classes) > 2:
            note("masks joined from one file per class, later classes over earlier ones")
            if len(drawn) < len(self.classes) - 1:
                note("masks without the file of a class, which counts as absent from the image")
        return joined

    def separate(
        self, files: MaskFiles, read: Callable[[Path], NDArray[np.uint8]], note: Callable[[str], None]
    ) -> dict[str, NDArray[np.uint8]]:
        """Read the files of an image and return the mask of each name. A name without a file is absent from the image.

        Args and Raises: as of `join`.
        """
        drawn = self._join_classes(files, read, note)
        nothing = np.zeros(next(iter(drawn.values())).shape, np.uint8)
        for number, name in enumerate(self.classes[1:], start=1):
            if number not in drawn:
                note(f"masks without a file of {name}, which counts as absent from the image")
        return {
            name: drawn[number].astype(np.uint8) if number in drawn else nothing
            for number, name in enumerate(self.classes[1:], start=1)
        }

    def _join_classes(
        self, files: MaskFiles, read: Callable[[Path], NDArray[np.uint8]], note: Callable[[str], None]
    ) -> dict[int, NDArray[np.bool_]]:
        """Map class -> where its files mark it, in the order of the classes."""
        of_class: dict[int, list[Path]] = defaultdict(list)
        for number, path in files:
            of_class[number].append(path)
        return {
            number: self._join_class(paths, [read(path) for path in paths], note)
            for number, paths in sorted(of_class.items())
        }

    def _classes_of(self, name: str, paths: Sequence[Path], folder: Path) -> list[tuple[int, Path]]:
        if self.values == "classes":
            if len(paths) > 1 and self.observers != "first":
                raise ShardError(
                    f"folder: image {name} has several masks, {paths[0].name} and {paths[1].name}: masks of class "
                    "numbers cannot be joined: remove all but one, or use observers=first"
                )
            return [(0, paths[0])]
        kinds = {_NUMBER.sub("", mask_suffix(path, name)).casefold() for path in paths}
        if len(self.classes) == 2 and not self.overlapping:
            if len(kinds) > 1 and not self.observers:
                raise ShardError(
                    f"folder: image {name} has several masks, {paths[0].name} and {paths[1].name}: if they show "
                    "different structures, name these in mask_classes=background,..., or in mask_names=... if they "
                    "may overlap; if they are drawings of several observers, use observers=first, union, majority or "
                    "consensus"
                )
            return [(1, path) for path in paths]
        return [(self._class_of(path, name, folder), path) for path in paths]

    def _class_of(self, path: Path, name: str, folder: Path) -> int:
        suffix = mask_suffix(path, name)
        subfolder = path.relative_to(folder).parts[0] if folder in path.parents else ""
        for text in (suffix, _NUMBER.sub("", suffix), subfolder):
            for number, known in enumerate(self.classes[1:], start=1):
                if text.casefold() == known.casefold():
                    return number
        kind, other = (
            ("masks", ", or remove it")
            if self.overlapping
            else ("classes", ", or use mask_values=classes for class numbers")
        )
        raise ShardError(
            f"folder: {path} names none of the {kind} {', '.join(self.classes[1:])}: with one file for each, name it "
            f"like {Path(name).name}_{self.classes[1]}{path.suffix}{other}"
        )

    def _join_class(
        self, paths: Sequence[Path], drawn: Sequence[NDArray[np.uint8]], note: Callable[[str], None]
    ) -> NDArray[np.bool_]:
        """Join the masks of one class."""
        stack = np.stack(drawn) != 0
        if len(paths) == 1:
            return stack[0]
        if self.observers:
            note(f"masks of several observers, joined by observers={self.observers}")
        votes = stack.sum(axis=0)
        if self.observers in ("", "union"):
            if not self.observers and (votes > 1).any():
                raise ShardError(
                    f"{paths[0]} and {len(paths) - 1} more masks of the image overlap in {int((votes > 1).sum())} "
                    "pixels: if they are lesions, use observers=union; if they are drawings of several observers, use "
                    "observers=first, union, majority or consensus"
                )
            if not self.observers:
                note("images with several disjoint masks, which were merged")
            return votes > 0
        if self.observers == "first":
            return stack[0]
        return 2 * votes > len(paths) if self.observers == "majority" else votes == len(paths)


def refuse_unknown_classes(mask: NDArray[np.integer], classes: int, path: Path) -> None:
    """Check the values of a mask of class numbers.

    Raises:
        ShardError: a value is neither a class nor 255.
    """
    if (wrong := mask[((mask < 0) | (mask >= classes)) & (mask != IGNORE)]).size:
        raise ShardError(f"{path}: mask value {wrong[0]} is not a class: there are {classes} classes, and 255 = ignore")
