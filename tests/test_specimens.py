"""Shards, configurations and checkpoints that earlier versions wrote still load, and mean the same."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from runs import train
from uml_dist import load_run
from uml_dist.config.loading import read_config
from uml_shards.read.part import part_of
from uml_shards.read.samples import Samples
from uml_shards.read.split import open_split
from uml_shards.write.verify import verify
from worlds import run_world

SPECIMENS = sorted(path for path in (Path(__file__).parent / "specimens").iterdir() if path.is_dir())


@pytest.fixture(params=SPECIMENS, ids=lambda path: path.name)
def specimen(request, tmp_path, monkeypatch):
    """A copy of one version's folder, which is the current folder, since its paths are relative."""
    folder = shutil.copytree(request.param, tmp_path / "specimen")
    monkeypatch.chdir(folder)
    return folder


def test_shards_are_valid_and_hold_what_they_held(specimen):
    for name, samples in (("train", 8), ("val", 4)):
        folder = specimen / "shards" / name
        assert verify(folder, quiet=True) == []
        split = open_split(folder)
        assert len(split) == samples
        assert split.read(0).image.shape == (32, 32, 3)


def test_the_configuration_is_valid(specimen):
    config = read_config(specimen / "config.toml")
    assert (config.recipe, config.train.steps, config.streams["train"].count) == ("uml", 4, 4)
    assert (config.optimizer.schedule, config.train.best) == ("poly", "dice")


def test_the_checkpoint_predicts_what_it_predicted(specimen):
    expected = json.loads((specimen / "expected.json").read_text())["predictions"]
    run = load_run("run", "latest", "cpu")
    stream = run.stream(run.open_split("val"))
    seen = 0
    for batch, found in run.predictor.predictions(stream, range(4), batch_size=4):
        for index, key in enumerate(batch.keys):
            wanted, seen = expected[key], seen + 1
            assert found.image_probability[index].tolist() == pytest.approx(wanted["image_probability"], abs=1e-5)
            assert float(found.image_vacuity[index]) == pytest.approx(wanted["image_vacuity"], abs=1e-5)
            assert float(found.pixel_probability[index, 1].sum()) == pytest.approx(wanted["lesion_area"], rel=1e-4)
            assert float(found.pixel_vacuity[index].sum()) == pytest.approx(wanted["pixel_vacuity"], rel=1e-4)
    assert seen == len(expected) == 4


def test_digests_of_parts_and_of_several_splits_are_those_in_earlier_checkpoints(tmp_path):
    one, two = (open_split(SPECIMENS[0] / "shards" / name) for name in ("train", "val"))
    ids = tmp_path / "labelled.txt"
    ids.write_text("\n".join(one.keys()[1:6:2]))
    single, joined = Samples([one]), Samples([one, two])
    found = [joined, part_of(single, "labelled", ids), part_of(single, "unlabelled", ids)]
    found.append(part_of(joined, "unlabelled", ids))
    digests = [samples.manifest.digest[:16] for samples in found]
    assert digests == ["111e96850bdbbf21", "a18a63dc24c3f6ca", "e11b52f916653541", "1f882c0cbc2da1fa"]


@pytest.mark.distributed
def test_the_run_resumes_with_the_losses_that_followed(specimen):
    expected = json.loads((specimen / "expected.json").read_text())["later_losses"]
    tree = tomllib.loads((specimen / "run" / "config.toml").read_text())
    trace = run_world(1, train, tree, "run")[0]
    assert trace.losses == pytest.approx(expected, abs=1e-5)
