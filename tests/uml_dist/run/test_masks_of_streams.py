"""A recipe that learns from masks refuses labelled samples without one, before any rank starts."""

import json

import numpy as np
import pytest

import volume_recipe
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.run.data import check_truth
from uml_dist.train.setup import prepare
from uml_shards import ShardError, open_split
from uml_shards.importers import Options, Source
from uml_shards.write.writer import write_split


class Graded(volume_recipe.Balls):
    """Ten volumes with a label, of which the first have a mask."""

    masks = 6

    def splits(self):
        return {"train": Source(range(10), classes=("low", "high"), mask_classes=("background", "ball"))}

    def encode(self, item):
        key, components = super().encode(item)
        components["json"] = json.dumps({"label": item % 2}).encode()
        if item >= self.masks:
            del components["mask.npy"]
        return key, components


class NoMasks(Graded):
    masks = 0


def shards_of(kind, folder):
    importer = kind(options=Options())
    for split in ("train", "val"):
        write_split(importer, split, importer.splits()["train"], folder / split, quiet=True)
    return folder


def setup_of(shards, part="labelled", **labelled):
    streams = {name: {"shards": str(shards), "count": 2} for name in ("labelled", "unlabelled")}
    streams["labelled"] |= {"part": part, **labelled}
    tree = {"recipe": "volume", "streams": streams, "data": {"size": [8, 8, 6]}, "train": {"steps": 2, "best": "dice"}}
    return prepare(validate(tree, "test"), 1)


def listed(folder, *numbers: int) -> str:
    path = folder / "labelled.txt"
    path.write_text("".join(f"case-{number}\n" for number in numbers))
    return str(path)


def test_only_samples_with_a_mask_are_labelled(tmp_path):
    shards = shards_of(Graded, tmp_path)
    assert set(setup_of(shards).splits["labelled"].keys()) == {f"case-{number}" for number in range(6)}
    assert len(setup_of(shards, labelled_ids=listed(tmp_path, 1, 3)).splits["labelled"]) == 2


def test_a_listed_sample_with_a_label_and_no_mask_is_named(tmp_path):
    shards = shards_of(Graded, tmp_path)
    message = (
        r"1 of the 3 labelled samples of stream labelled have no mask, first 'case-7', but recipe volume learns from"
    )
    with pytest.raises(UmlError, match=message):
        setup_of(shards, labelled_ids=listed(tmp_path, 1, 7, 3))
    with pytest.raises(ShardError, match=r"labelled\.txt, line 2: key 'case-12' is not in "):
        setup_of(shards, labelled_ids=listed(tmp_path, 1, 12))


def test_labels_do_not_replace_masks(tmp_path):
    shards = shards_of(NoMasks, tmp_path)
    with pytest.raises(UmlError, match="10 of the 10 labelled samples of stream labelled have no mask"):
        setup_of(shards)
    with pytest.raises(
        UmlError, match="no sample of stream labelled has a mask, from which recipe volume learns: add masks"
    ):
        check_truth(volume_recipe.VolumeRecipe, {"labelled": open_split(shards / "train").manifest})


def test_volumes_smaller_than_the_patch_are_padded_and_their_smallest_sides_noted(tmp_path):
    shards = shards_of(Graded, tmp_path)
    split = open_split(shards / "train")
    shapes = [split.read(number).image.shape[:3] for number in range(10)]
    smallest = np.min(shapes, axis=0)
    assert split.manifest.notes[f"volumes with at least {' x '.join(map(str, smallest))} voxels"] == 10
    number = int(np.flatnonzero(split.masked())[0])
    sample = split.read_patch(number, (16, 16, 16), (0.0, 0.0, 0.0))
    assert sample.image.shape == (16, 16, 16, 1)
    assert (sample.mask != 255).sum() == np.prod(shapes[number])
