"""Splits of which the labels, the masks or even the names of their classes are not known."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from uml_shards.importers import Options
from uml_shards.importers.base import Source
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.write.writer import write_split


class Partial(PhantomImporter):
    """The phantom with every label or every mask missing, and the names of those that are not stated left out."""

    known: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()

    def splits(self) -> dict[str, Source]:
        names: Mapping[str, Any] = {
            **({} if "labels" in self.stated else {"classes": (), "tasks": {}}),
            **({} if "masks" in self.stated else {"mask_classes": ()}),
        }
        return {split: replace(source, **names) for split, source in super().splits().items()}

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        key, components = super().encode(item)
        if "masks" not in self.known:
            del components["mask.png"]
        if "labels" not in self.known:
            meta = json.loads(components["json"])
            components["json"] = json.dumps(meta | {"label": None}).encode()
        return key, components


def make_partial(folder: Path, known: str = "", stated: str | None = None, samples: int = 8, split: str = "") -> Path:
    """Write `train` and `val` of a data set, or one split of it.

    Args:
        folder: folder of the data set.
        known: what the samples have: "labels", "masks", "labels masks" or nothing.
        stated: what the manifest names the classes of; default: what is known.
        samples: number of samples in each split.
        split: the only split to write.
    """
    splits = [split] if split else ["train", "val"]
    importer = Partial(options=Options(size=32, seed=len(known), counts=dict.fromkeys(splits, samples)))
    importer.known = tuple(known.split())
    importer.stated = importer.known if stated is None else tuple(stated.split())
    for name in splits:
        write_split(importer, name, importer.splits()[name], folder / name, quiet=True)
    return folder
