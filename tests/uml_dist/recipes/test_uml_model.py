"""`[model]` of the recipe uml: profiles, encoders, published weights, and what does not fit together."""

import pytest
import torch

from manifests import manifest_of
from uml_dist.backbones import ENCODERS, Res2Net50, Vgg16
from uml_dist.backbones.compact import CompactEncoder
from uml_dist.backbones.normalisation import FrozenBatchNorm
from uml_dist.config.loading import apply_overrides, validate
from uml_dist.errors import UmlError
from uml_dist.recipes.uml.model import UmlModel
from uml_dist.recipes.uml.network import UmlNetwork
from uml_dist.recipes.uml.recipe import UmlRecipe

TREE = {"recipe": "uml", "streams": {"train": {"shards": "none", "count": 8}}}
VGG_ALONE = ("model.width=1.0", "model.space_to_depth=1", "model.encoder.segmentation=vgg16")


def recipe(*words: str, **manifest) -> UmlRecipe:
    return UmlRecipe(validate(apply_overrides(TREE, words), "run.toml"), {"train": manifest_of(**manifest)})


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "a Dice term over the global batch cannot be accumulated"),
        (("objective.dice_scope=sample",), None),
        (("objective.dice_scope=sample", "model.head=published"), "batch norm would take the statistics of a part"),
        (("objective.dice_scope=sample", "model.decoder_norm=batch"), "batch norm would take the statistics of a part"),
    ],
)
def test_what_is_formed_over_the_global_batch_is_not_accumulated(words, why):
    reason = recipe(*words).why_no_accumulation
    assert reason is None if why is None else (reason or "").startswith(why)


def refused(*words: str, **manifest) -> str:
    with pytest.raises(UmlError) as raised:
        recipe(*words, **manifest).check_start()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def network(**settings) -> UmlNetwork:
    with torch.device("meta"):
        return UmlNetwork(UmlModel(**settings), channels=3, pixel_classes=3, image_classes=2)


def weights_file(path, encoder: str, **changes) -> str:
    """Random weights under the keys of an encoder."""
    with torch.device("meta"):
        module = ENCODERS[encoder].make(3, ENCODERS[encoder].widths or (), FrozenBatchNorm)
    generator = torch.Generator().manual_seed(0)
    tensors = {key: torch.rand(each.shape, generator=generator) for key, each in module.state_dict().items()}
    torch.save({**tensors, **changes}, path)
    return str(path)


def test_profiles_state_encoders_and_width():
    compact, paper = network(), network(profile="paper")
    assert isinstance(compact.classification_encoder, CompactEncoder)
    assert isinstance(compact.segmentation_encoder, CompactEncoder)
    assert isinstance(paper.classification_encoder, Res2Net50)
    assert isinstance(paper.segmentation_encoder, Vgg16)
    assert paper.classification_encoder.widths == (64, 256, 512, 1024)
    assert compact.classification_encoder.widths == (8, 32, 64, 128)
    assert compact.classification_encoder.stages[0].first.in_channels == 12  # blocks of 2 by 2 pixels
    assert (compact.block, paper.block) == (2, 1)


def test_each_task_s_encoder_can_be_chosen_and_brings_its_own_widths():
    twice = network(profile="paper", encoder={"segmentation": "res2net50"})
    assert isinstance(twice.segmentation_encoder, Res2Net50)
    assert twice.segmentation_encoder.widths == (64, 256, 512, 1024)
    mixed = network(encoder={"classification": "vgg16"})
    assert mixed.classification_encoder.widths == (8, 16, 32, 64)
    assert isinstance(mixed.segmentation_encoder, CompactEncoder)


def test_parameters_are_those_of_the_paper_less_the_dead_ones():
    """Of 61.41 M (Q = 3, K = 2), 22.05 M are dead stages; frozen normalisations hold buffers only.

    Fewer than the tolerance are biases of the mixer that are left out: those of the channel query (1) and value (256)
    at each level change nothing.
    """
    with_weights = {"classification_weights": "a.pth", "segmentation_weights": "b.pth"}
    paper = network(profile="paper", encoder=with_weights)
    count = {name: sum(each.numel() for each in part.parameters()) / 1e6 for name, part in paper.named_children()}
    expected = {
        "classification_encoder": 23.61 - 14.97,
        "segmentation_encoder": 14.71 - 7.08,
        "mixer": 3.06,
        "mutual": 2.70,
        "navigator": 3.78,
        "instructor": 13.55,
    }
    assert count == pytest.approx(expected, abs=0.0065)
    assert sum(count.values()) == pytest.approx(61.41 - 22.05, abs=0.0065)


def test_normalisation_is_frozen_where_weights_are_given_and_of_groups_elsewhere():
    model = network(profile="paper", encoder={"segmentation_weights": "a.pth"})

    def kinds(module):
        return {type(each).__name__ for each in module.modules() if "Norm" in type(each).__name__}

    assert kinds(model.segmentation_encoder) == {"FrozenBatchNorm"}
    assert kinds(model.classification_encoder) == kinds(model.navigator) == {"GroupNorm"}


def test_the_profile_release_has_the_authors_layers():
    model = network(profile="release")

    def kinds(module):
        return {type(each).__name__ for each in module.modules() if "Norm" in type(each).__name__}

    assert kinds(model.classification_encoder) == kinds(model.segmentation_encoder) == {"FrozenBatchNorm"}
    assert kinds(model.mutual) == kinds(model.navigator) == kinds(model.instructor) == {"GlobalBatchNorm"}
    assert {norm.epsilon for norm in model.modules() if isinstance(norm, FrozenBatchNorm)} == {0.0}
    assert [name for name, _ in model.instructor.head.named_parameters() if name.endswith("bias")] == [
        f"{4 * block + 2}.bias" for block in range(4)
    ]
    assert model.instructor.out.bias is None


def test_a_single_choice_of_the_release_can_be_taken_alone():
    model = network(profile="paper", decoder_norm="batch")
    kinds = {type(each).__name__ for each in model.modules() if "Norm" in type(each).__name__}
    assert kinds == {"GroupNorm", "GlobalBatchNorm", "LayerNorm"}
    assert model.instructor.out.bias is not None


def test_the_release_without_weights_says_what_its_frozen_norms_are():
    started = recipe("model.profile=release", "model.width=0.0625")
    lines = started.networks["uml"].start(started.networks["uml"].build())
    assert len(lines) == 2
    assert "is the identity, so activations grow: give model.encoder.classification_weights" in lines[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("model.profile=papers",),
            "run.toml: model.profile = 'papers': Input should be 'compact', 'paper' or 'release'",
        ),
        (("model.depth=3",), "run.toml: unknown key model.depth"),
        (
            ("model.encoder.classification=resnet",),
            "run.toml: model.encoder.classification = 'resnet': Input should be 'compact', 'res2net50' or 'vgg16'",
        ),
        (
            ("model.encoder.segmentation_weight=a.pth",),
            "unknown key model.encoder.segmentation_weight: did you mean model.encoder.segmentation_weights?",
        ),
        (
            ("model.profile=paper", "model.norm=frozen", "model.encoder.segmentation_weights=a.pth"),
            'run.toml: model: norm = "frozen" needs weights: set model.encoder.classification_weights',
        ),
        (
            ("model.profile=release", "model.checkpointing=true"),
            "model: checkpointing recomputes activations, and batch norm would count every batch twice: set",
        ),
        (
            ("model.encoder.classification_weights=a.pth",),
            "model: model.encoder.classification_weights: encoder compact has no published weights: leave it out",
        ),
        (
            ("model.width=1.0", "model.encoder.segmentation=vgg16", "model.encoder.segmentation_weights=a.pth"),
            "model.encoder.segmentation_weights are of whole images: set model.space_to_depth = 1, or leave them out",
        ),
        (
            ("model.profile=paper", "model.norm=group", "model.encoder.segmentation_weights=a.pth"),
            'norm = "group" does not suit model.encoder.segmentation_weights, which were trained with batch norm',
        ),
        (
            ("model.profile=paper", "model.width=0.5", "model.encoder.segmentation_weights=a.pth"),
            "model.encoder.segmentation_weights are of width 1, the model is of width 0.5: set model.width = 1, or",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(words, line):
    assert line in refused(*words)


def test_weight_files_are_compared_before_anything_is_built(tmp_path):
    word = "model.encoder.segmentation_weights={}".format
    absent = tmp_path / "absent.pth"
    assert refused(*VGG_ALONE, word(absent)) == f"weights {absent}: there is no such file: download it first"
    path = weights_file(tmp_path / "vgg.pth", "vgg16", **{"features.0.weight": torch.ones(2)})
    assert "has features.0.weight (2,) instead of (64, 3, 3, 3): " in refused(*VGG_ALONE, word(path))


@pytest.mark.parametrize("channels", [2, 4])
def test_published_weights_are_refused_for_images_that_are_neither_rgb_nor_grey(channels, tmp_path):
    path = weights_file(tmp_path / "vgg.pth", "vgg16")
    word = f"model.encoder.segmentation_weights={path}"
    statistics = {"mean": [0.5] * channels, "std": [0.5] * channels}
    line = refused(*VGG_ALONE, word, channels=channels, statistics=statistics)
    assert line.endswith(f"but the images have {channels} channels: leave the weights out")


def test_published_weights_are_summed_over_rgb_for_grey_images(tmp_path):
    path = weights_file(tmp_path / "vgg.pth", "vgg16")
    words = (*VGG_ALONE, f"model.encoder.segmentation_weights={path}")
    grey = recipe(*words, channels=1, statistics={"mean": [0.5], "std": [0.5]})
    grey.check_start()
    role = grey.networks["uml"]
    network = role.build()
    (line,) = role.start(network)
    assert line == f"weights {path}: not used: none; first convolution summed over RGB, as the images are grey"
    given = torch.load(path)["features.0.weight"]
    loaded = network.segmentation_encoder.state_dict()["features.0.weight"]
    torch.testing.assert_close(loaded, given[:, 0:1] + given[:, 1:2] + given[:, 2:3])


def test_a_network_is_built_without_the_files_and_starts_with_their_weights(tmp_path):
    path = tmp_path / "vgg.pth"
    role = recipe(*VGG_ALONE, f"model.encoder.segmentation_weights={path}").networks["uml"]
    network = role.build()
    weights_file(path, "vgg16")
    assert role.start(network) == [f"weights {path}: not used: none"]
    state = network.segmentation_encoder.state_dict()
    given = torch.load(path)
    assert state.keys() == given.keys()
    assert all(torch.equal(state[key], given[key]) for key in given)
