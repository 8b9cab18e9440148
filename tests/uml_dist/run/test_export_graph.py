"""Exported graphs: raw images in, the recipe's probabilities and vacuities out, at any size and number of images."""

from pathlib import Path

import pytest
import torch
from torch import nn

import collab_recipes
import small_recipe
import ugmcl_recipes
from lesions_and_grades import LesionsAndGrades
from manifests import manifest_of
from small_recipe import SmallRecipe
from uml_dist.batch import batch_of
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.nn.keyed_dropout import name_layers
from uml_dist.recipes import networks_of, trained_source
from uml_dist.recipes.uml.recipe import UmlRecipe
from uml_dist.run.graph import BATCH, PredictionGraph, captured, differences, tensors_of
from uml_dist.run.graph_file import open_graph, save, tolerance_of
from uml_shards.format.manifest import Statistics
from volume_recipe import VolumeRecipe

assert small_recipe
IMAGE = {"image_probability", "image_vacuity"}
PIXEL = {"pixel_probability", "pixel_vacuity"}


def recipe_of(kind, name, streams=("train",), **tables):
    tree = {"recipe": name, "streams": {one: {"shards": "none", "count": 2} for one in streams}, "train": {"steps": 9}}
    config = validate({**tree, **tables}, "test")
    changes = {"mask_names": ("dots", "lines"), "mask_classes": ()} if "lesions" in streams else {}
    return kind(config, dict.fromkeys(streams, manifest_of(**changes)))


def small(name="small", kind=SmallRecipe):
    return recipe_of(kind, name)


def volumes():
    return recipe_of(VolumeRecipe, "volume", ("labelled", "unlabelled"), data={"size": [8, 8, 8]})


def lesions():
    return recipe_of(LesionsAndGrades, "lesions_and_grades", ("lesions", "grades"))


def uml(**model):
    return recipe_of(UmlRecipe, "uml", model={"width": 1 / 16, **model})


def ugmcl():
    return ugmcl_recipes.recipe_of({"width": 0.25}, 3, uncertainty="evidential")


def collab():
    return collab_recipes.recipe_of(evidential=True)


CASES = {
    "small": (small, IMAGE | PIXEL | {"steep_mask"}),
    "volumes": (volumes, {"pixel_probability"}),
    "lesions": (lesions, {"image_probability", "lesion_probability"}),
    "uml compact": (uml, IMAGE | PIXEL | {"reliable_mask"}),
    "uml paper": (lambda: uml(profile="paper"), IMAGE | PIXEL | {"reliable_mask"}),
    "ugmcl": (ugmcl, PIXEL | {"mask_by_distance"}),
    "collab": (collab, IMAGE | {"lesion_probability", "attention", "lesion_vacuity"}),
}
QUICK = ("small", "volumes", "lesions")
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.conversion) for name in CASES]


def networks_for(recipe) -> dict[str, nn.Module]:
    """Random networks in evaluation mode whose flags are set: the attention of a grader counts as trained."""
    torch.manual_seed(0)
    roles = networks_of(recipe)
    networks = {name: name_layers(trained_source(roles, name).build()).eval() for name in roles}
    for network in networks.values():
        for buffer in network.buffers():
            if buffer.dtype == torch.bool:
                buffer.fill_(True)
    return networks


class Example:
    """A recipe with random networks, the statistics of its inputs, and its graph."""

    def __init__(self, recipe):
        self.recipe, self.networks = recipe, networks_for(recipe)
        self.channels = 1 if recipe.dimensions == 3 else 3
        self.statistics = Statistics(mean=(0.6, 0.5, 0.4)[: self.channels], std=(0.2, 0.1, 0.3)[: self.channels])
        module = PredictionGraph(recipe, self.networks, self.statistics)
        self.graph = captured(module, self.channels, (32, 48, 32)[: recipe.dimensions])

    def images(self, number, blocks):
        sides = [side * self.recipe.side_multiple for side in blocks[: self.recipe.dimensions]]
        generator = torch.Generator().manual_seed(number)
        return torch.randint(0, 256, (number, *sides, self.channels), generator=generator, dtype=torch.uint8)

    def predicted(self, images):
        """What the recipe itself predicts for images that are prepared as always."""
        with torch.no_grad():
            return tensors_of(self.recipe.predict(batch_of(list(images.numpy()), self.statistics), self.networks))


@pytest.fixture(scope="module", params=ALL)
def case(request):
    build, outputs = CASES[request.param]
    return Example(build()), outputs


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_graph_predicts_as_the_recipe_at_sizes_it_was_not_captured_with(case, name, tmp_path):
    example, outputs = case
    if name.endswith("onnx"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    save(example.graph, tmp_path / name)
    predict = open_graph(tmp_path / name)
    for number, blocks in ((1, (5, 4, 6)), (3, (4, 6, 4))):
        images = example.images(number, blocks)
        assert number != BATCH
        assert images.shape[1:-1] != example.graph.captured
        found, expected = predict(images.movedim(-1, 1).float() / 255), example.predicted(images)
        assert set(found) == set(expected) == outputs == set(example.graph.outputs)
        for output, difference in differences(expected, found).items():
            assert difference <= tolerance_of(output), output
            assert len(example.graph.outputs[output]) == expected[output].dim()
    content = (tmp_path / name).read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[3]).encode() not in content


def test_graph_depends_on_the_image(case):
    example, _ = case
    one, other = (example.predicted(torch.full_like(example.images(1, (2, 2, 2)), value)) for value in (0, 255))
    assert all(value.isfinite().all() for value in one.values())
    changed = {name for name, difference in differences(one, other).items() if difference > 1e-3}
    assert {name for name in one if name.endswith("probability")} <= changed


def test_flags_of_the_networks_are_left_as_they_were(case):
    example, _ = case
    buffers = [buffer for network in example.networks.values() for buffer in network.buffers()]
    assert all(isinstance(buffer, torch.Tensor) for buffer in buffers)
    flags = sum(buffer.dtype == torch.bool for buffer in buffers)
    assert flags == {"small": 1, "collab": 2}.get(example.recipe.name, 0)  # the grader of `collab` has a copy


class Branching(SmallRecipe):
    """A recipe whose prediction depends on the values of the image, as no graph can."""

    def predict(self, batch, networks):
        return super().predict(batch, networks) if bool(batch.image.mean() > 0) else None


def test_prediction_that_is_no_graph_is_refused_in_one_line():
    branching = small(kind=Branching)
    module = PredictionGraph(branching, networks_for(branching), branching.manifest.statistics)
    with pytest.raises(UmlError, match="recipe small cannot be exported as a graph: ") as raised:
        captured(module, 3, (32, 32))
    assert "\n" not in str(raised.value)


def test_difference_of_another_shape_or_of_no_number_is_infinite():
    one = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2), "d": torch.ones(2)}
    other = {"a": torch.tensor([1.0, 1.5]), "b": torch.ones(3), "c": torch.tensor([1.0, torch.nan])}
    assert differences(one, other) == {"a": 0.5, "b": torch.inf, "c": torch.inf, "d": torch.inf}
