"""Imports `table.csv` with the columns image, patient and label, and the images and masks that it names."""

import csv

from uml_shards import ShardError
from uml_shards.importers import Importer, Source
from uml_shards.keyed import keyed_uniform
from uml_shards.sources.encode import encode_file, encode_grey, encode_json, read_binary_mask

CLASSES = ("benign", "malignant")


class LesionTable(Importer):
    """Reads the table and draws the splits by patient."""

    name, summary, licence = "lesion_table", "skin lesions, benign or malignant", "not to be passed on"
    source, where = "what to cite", "ask the owner, and unpack the archive into RAW"
    tree = "RAW/table.csv (image, patient, label), RAW/images/*.png, RAW/masks/*.png"
    default_size = 256

    def splits(self):  # cheap: no image is decoded; raises a ShardError if the layout is wrong
        assert self.raw is not None
        found = {"train": [], "val": [], "test": []}
        with (self.raw / "table.csv").open(newline="") as table:
            for row in csv.DictReader(table):
                if row["label"] not in ("", *CLASSES):
                    raise ShardError(f"table.csv: {row['image']} has the label {row['label']!r}: use one of {CLASSES}")
                draw = keyed_uniform("split", self.name, row["patient"])  # one fixed draw per patient
                split = "train" if draw < 0.7 else "val" if draw < 0.85 else "test"
                found[split].append((row["image"], row["label"]))
        return {
            split: Source(items, classes=CLASSES, mask_classes=("background", "lesion"), tasks={"malignant": (1,)})
            for split, items in found.items()
            if items
        }

    def encode(self, item):  # in worker processes; the result is decoded and checked before it is stored
        assert self.raw is not None
        key, label = item
        extension, image, size = encode_file(self.raw / "images" / f"{key}.png", self.size, self.options.lossless)
        components = {extension: image, "json": encode_json(CLASSES.index(label) if label else None)}
        mask = self.raw / "masks" / f"{key}.png"
        if mask.is_file():
            components["mask.png"] = encode_grey(read_binary_mask(mask, size))  # 0 and 255; resized by NEAREST only
        return key, components
