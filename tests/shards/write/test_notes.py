"""Tests that what importers note about samples reaches the manifest and the summary."""

from pathlib import Path

import numpy as np
import pytest

from commands import load_script
from uml_shards import Manifest, ShardError
from uml_shards.importers import Importer, Options, Source
from uml_shards.sources.encode import encode_grey, encode_image, encode_json
from uml_shards.write.writer import write_split


class Noting(Importer):
    """Notes every second sample; sample 5 is bad."""

    name = "noting"
    summary = licence = source = where = tree = "a test"
    default_size = 8
    needs_raw = False

    def splits(self):
        self.note("files not used", 3)
        return {"train": Source(list(range(9)), mask_classes=("background", "lesion"))}

    def encode(self, item):
        if item % 2:
            self.note("odd samples")
        self.note("lesions that survive", item // 8, of=item)
        if item == 5:
            raise ShardError("bad")
        extension, image = encode_image(np.full((8, 8, 3), item, np.uint8), lossless=True)
        mask = encode_grey(np.full((8, 8), item % 3 > 0, np.uint8))
        return f"s{item}", {extension: image, "mask.png": mask, "json": encode_json(None)}


@pytest.mark.parametrize("workers", [1, 2])
def test_notes_of_stored_samples_are_counted(tmp_path, workers, capsys):
    importer = Noting(None, Options())
    manifest = write_split(
        importer,
        "train",
        importer.splits()["train"],
        tmp_path / "train",
        workers=workers,
        quiet=True,
        on_bad_sample="skip",
    )
    assert manifest.notes == {
        "empty masks": 3,
        "images in which all values are equal": 8,
        "lesions that survive, of 31 (3.2%)": 1,
        "masks without background": 5,
        "odd samples": 3,
    }
    main = load_script(Path(__file__).parents[3] / "launchers" / "shards.py").main
    assert main(["info", str(tmp_path)]) == 0
    assert "train: odd samples: 3\n" in capsys.readouterr().out


def test_notes_do_not_change_the_digest(tmp_path):
    importer = Noting(None, Options())
    manifest = write_split(
        importer, "train", importer.splits()["train"], tmp_path / "train", quiet=True, on_bad_sample="skip"
    )
    assert Manifest.load(tmp_path / "train").digest == manifest.model_copy(update={"notes": {}}).digest
