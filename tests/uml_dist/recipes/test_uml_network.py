"""The UML network: shapes, padding, gradients, checkpointing, keyed dropout."""

import math

import pytest
import torch
from torch.nn import functional

from uml_dist.nn.keyed_dropout import use_rng_key
from uml_dist.recipes.uml.evidence import exponential_logits
from uml_dist.recipes.uml.mixer import LevelMixer
from uml_dist.recipes.uml.model import UmlModel
from uml_dist.recipes.uml.network import UmlNetwork
from uml_kernels import opinion

BLOCKS = {"compact": 2, "paper": 1}
PROFILES = list(BLOCKS)


def build(seed: int = 0, channels: int = 3, **settings) -> UmlNetwork:
    torch.manual_seed(seed)
    settings.setdefault("width", 1 / 32)
    return UmlNetwork(UmlModel(**settings), channels, pixel_classes=3, image_classes=2)


def run(network, image):
    with use_rng_key(torch.arange(len(image)) + 17):
        return network(image)


def scalar(output):
    """A number that every output of the losses enters."""
    levels = sum(logits.softmax(1)[:, 0].square().mean() for logits in output.segmentation)
    return opinion(output.class_logits).evidence.square().mean() + evidence_of(output).square().mean() + levels


def evidence_of(output):
    return opinion(output.mutual_logits).evidence


def gradients(network, image):
    network.zero_grad()
    scalar(run(network, image)).backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("profile", PROFILES)
def test_outputs_have_their_shapes_and_ranges(profile):
    block = BLOCKS[profile]
    output = run(build(profile=profile), torch.randn(2, 3, 32, 48))
    assert output.class_logits.shape == (2, 2)
    assert output.mutual_logits.shape == (2, 3, 32, 48)
    assert [tuple(level.shape[1:]) for level in output.segmentation] == [
        (3, 32, 48), *((3, 32 // side, 48 // side) for side in (2 * block, 4 * block, 8 * block))
    ]  # fmt: skip
    sizes = [(32 // side, 48 // side) for side in (block, 8 * block)]
    assert [tuple(mask.shape[1:]) for mask in output.reliable_masks] == [(3, *size) for size in sizes]
    assert [tuple(gate.shape[1:]) for gate in output.gates] == sizes
    assert output.padded_size == (32, 48)
    torch.testing.assert_close(output.mutual_vacuity, 3 / (3 + evidence_of(output).sum(1)))
    for gate in output.gates:
        assert ((gate >= math.exp(-1) - 1e-6) & (gate < 1)).all()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (31, 45), (50, 9)])
def test_a_size_that_does_not_divide_is_padded_and_cropped(size, profile):
    network = build(profile=profile).eval()
    image = torch.randn(1, 3, *size)
    output = network(image)
    assert output.mutual_logits.shape[2:] == output.segmentation[0].shape[2:] == output.mutual_vacuity.shape[1:] == size
    side = 8 * BLOCKS[profile]
    padded = functional.pad(image, (0, -size[1] % side, 0, -size[0] % side), mode="replicate")
    whole = network(padded)
    torch.testing.assert_close(output.class_logits, whole.class_logits)
    assert output.padded_size == tuple(padded.shape[2:])
    for part, full in zip(output.segmentation, whole.segmentation, strict=True):
        torch.testing.assert_close(part, full[..., : part.shape[2], : part.shape[3]])


SCORES = ("mutual.head.1.weight", "navigator.scores.0.weight")


def test_a_block_of_pixels_is_a_point_with_all_of_their_values_and_has_scores_for_each():
    """On average over each block they are those of a network of the rearranged image with the mean weights."""
    network = build(evidence="softplus").eval()
    inner = build(evidence="softplus", space_to_depth=1, channels=12).eval()
    state = network.state_dict()
    inner.load_state_dict(state | {key: state[key].unflatten(0, (3, 4)).mean(1) for key in SCORES})
    image = torch.randn(2, 3, 32, 48)
    blocks = image.unflatten(3, (24, 2)).unflatten(2, (16, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    output, expected = network(image), inner(blocks)
    torch.testing.assert_close(output.class_logits, expected.class_logits)
    torch.testing.assert_close(functional.avg_pool2d(output.mutual_logits, 2), expected.mutual_logits)
    torch.testing.assert_close(functional.avg_pool2d(output.segmentation[0], 2), expected.segmentation[0])
    for part, full in zip(output.segmentation[1:], expected.segmentation[1:], strict=True):
        torch.testing.assert_close(part, full)
    torch.testing.assert_close(output.reliable_masks, expected.reliable_masks)
    torch.testing.assert_close(output.gates, expected.gates)
    enlarged = functional.interpolate(expected.reliable_masks[0], (32, 48), mode="bilinear", align_corners=True)
    torch.testing.assert_close(output.prediction().maps["reliable mask"], 1.0 - enlarged.softmax(1)[:, 0])


def test_each_score_of_a_block_is_of_its_own_pixel():
    """In the order in which the values of the block's pixels are read: row by row."""
    network = build(evidence="softplus").eval()
    with torch.no_grad():
        for key in SCORES:
            network.get_parameter(key).unflatten(0, (3, 4))[:, [0, 2, 3]] = 0  # all but the second pixel's
    output = network(torch.randn(1, 3, 16, 16))
    for scores in (output.mutual_logits, output.segmentation[0]):
        second = torch.zeros_like(scores)
        second[..., 0::2, 1::2] = scores[..., 0::2, 1::2]
        assert second.any()
        assert torch.equal(scores, second)


def test_exponential_evidence_is_softplus_up_to_a_score_of_1_and_grows_by_e_above():
    score = torch.tensor([-20.0, -1.0, 0.0, 1.0, 2.0, 6.0, 16.0], dtype=torch.float64, requires_grad=True)
    evidence = functional.softplus(exponential_logits(score))
    softplus = functional.softplus(score)
    torch.testing.assert_close(evidence[:4], softplus[:4])
    torch.testing.assert_close(evidence[4:], functional.softplus(torch.exp(score[4:] - 1)))
    assert evidence[5] > 100
    (gradient,) = torch.autograd.grad(exponential_logits(score)[:-1].sum(), score)
    torch.testing.assert_close(gradient[:-1], torch.exp((score[:-1] - 1).clamp(min=0)))
    assert exponential_logits(torch.tensor([1e30, torch.inf])).isfinite().all()
    assert exponential_logits(torch.tensor([torch.nan])).isnan()
    assert exponential_logits(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32


SWITCHES = [
    {},
    {"un_top_in_seg": True},
    {"mask_source": "alpha"},
    {"mask_source": "belief", "un_top_in_seg": True},
    {"encoder": {"segmentation": "res2net50", "classification": "vgg16"}},
]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_parameter_has_a_gradient(switches, profile):
    grads = gradients(build(profile=profile, **switches), torch.randn(2, 3, 32, 32))
    assert [name for name, gradient in grads.items() if not gradient.abs().max() > 1e-9] == []


@pytest.mark.parametrize("profile", PROFILES)
def test_checkpointing_changes_no_bit_of_the_gradients_with_dropout_on(profile):
    image = torch.randn(2, 3, 24, 40)
    plain = gradients(build(dropout=0.5, profile=profile), image)
    recomputed = gradients(build(dropout=0.5, profile=profile, checkpointing=True), image)
    undropped = gradients(build(dropout=0.0, profile=profile), image)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert any(not torch.equal(plain[name], undropped[name]) for name in plain)


def test_checkpointing_lets_batch_norm_count_every_batch_once():
    image, found = torch.randn(2, 3, 32, 32), []
    for checkpointing in (False, True):
        network = build(head="published", checkpointing=checkpointing)
        found.append((gradients(network, image), dict(network.instructor.named_buffers())))
    (plain, once), (recomputed, counted) = found
    assert once.keys() == counted.keys() != set()
    assert all(torch.equal(once[name], counted[name]) for name in once)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_a_sample_does_not_depend_on_the_batch_it_is_in():
    network, image = build(dropout=0.3), torch.randn(4, 3, 32, 32)
    whole = run(network, image)
    with use_rng_key(torch.tensor([19])):
        alone = network(image[2:3])
    image_evidence = [opinion(each.class_logits).evidence for each in (alone, whole)]
    torch.testing.assert_close(image_evidence[0], image_evidence[1][2:3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(evidence_of(alone), evidence_of(whole)[2:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("profile", PROFILES)
def test_opinions_are_float32_and_finite_under_bf16(profile):
    network, image = build(profile=profile), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(network, image)
    assert output.mutual_logits.dtype == (torch.float32 if profile == "compact" else torch.bfloat16)
    assert output.mutual_vacuity.dtype == output.reliable_masks[0].dtype == torch.float32
    scalar(output).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_detached_uncertainty_changes_the_gradient_and_not_the_output():
    image, outputs = torch.randn(1, 3, 16, 16), []
    for detach in (False, True):
        torch.manual_seed(0)
        network = UmlNetwork(UmlModel(dropout=0, width=1 / 32), 3, 3, 2, detach_uncertainty=detach)
        output = network(image)
        output.class_logits.sum().backward()
        outputs.append((output.class_logits, next(network.mutual.head.parameters()).grad))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert not torch.equal(outputs[0][1], outputs[1][1])


def test_the_prediction_is_the_opinion_and_the_segmentation():
    output = build().eval()(torch.randn(2, 3, 16, 16))
    prediction = output.prediction()
    torch.testing.assert_close(prediction.image_vacuity, 2 / (2 + opinion(output.class_logits).evidence.sum(1)))
    torch.testing.assert_close(prediction.pixel_vacuity, 3 / (3 + evidence_of(output).sum(1)))
    torch.testing.assert_close(prediction.pixel_probability, output.segmentation[0].softmax(1))
    torch.testing.assert_close(prediction.image_probability.sum(1), torch.ones(2))
    of_opinion, mean = (output.prediction(source).pixel_probability for source in ("opinion", "mean"))
    torch.testing.assert_close(of_opinion, opinion(output.mutual_logits).probability)
    torch.testing.assert_close(mean, (prediction.pixel_probability + of_opinion) / 2)


@pytest.mark.parametrize("outputs", [5, None])
def test_the_mixer_is_the_attention_of_the_paper_without_its_widest_tensor(outputs):
    torch.manual_seed(1)
    mixer = LevelMixer(3, 4, 6, outputs).double()
    classified, segmented = torch.randn(2, 3, 5, 7).double(), torch.randn(2, 4, 5, 7).double()

    def conv(weight, feature):
        return torch.einsum("oc,bchw->bohw", weight, feature)

    joined = torch.cat((conv(mixer.project_classified, classified), conv(mixer.project_segmented, segmented)), 1)
    query = conv(mixer.channel_query, joined).flatten(2).softmax(2)
    value = conv(mixer.channel_value.weight, joined).flatten(2)
    channel = torch.sigmoid(mixer.channel_norm(mixer.channel_out((value @ query.transpose(1, 2)).squeeze(2))))
    weighted = joined * channel[:, :, None, None]
    query = (conv(mixer.place_query.weight, weighted) + mixer.place_query.bias[:, None, None]).mean((2, 3))
    value = conv(mixer.place_value, weighted) + mixer.place_value_bias[:, None, None]
    place = torch.sigmoid(torch.einsum("bc,bchw->bhw", query, value))
    expected = weighted + place.unsqueeze(1) * weighted
    expected = expected if outputs is None else conv(mixer.out, expected)
    torch.testing.assert_close(mixer(classified, segmented), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", [5, None])
def test_a_channel_shuffle_before_the_mixer_s_attention_would_only_rename_weights(outputs):
    """The paper shuffles the joined channels: the same function with weights in another order, so it is left out."""
    torch.manual_seed(2)
    plain = LevelMixer(3, 4, 6, outputs).double()
    shuffle = torch.randperm(12)
    classified, segmented = torch.randn(2, 3, 5, 7).double(), torch.randn(2, 4, 5, 7).double()

    class Shuffled(LevelMixer):
        """Shuffles what the projections make: its projection matrix has other rows."""

        def forward(self, classified, segmented):
            block_diag = torch.block_diag
            try:
                torch.block_diag = lambda *parts: block_diag(*parts)[shuffle]
                return super().forward(classified, segmented)
            finally:
                torch.block_diag = block_diag

    renamed = Shuffled(3, 4, 6, outputs).double()
    with torch.no_grad():
        state = {key: tensor.clone() for key, tensor in plain.state_dict().items()}
        for key in ("channel_query", "channel_value.weight", "place_query.weight", "place_value", "out"):
            if key in state:
                state[key] = state[key][:, shuffle]
        for key in ("channel_out.weight", "channel_out.bias", "channel_norm.weight", "channel_norm.bias"):
            state[key] = state[key][shuffle]
    renamed.load_state_dict(state)
    expected = plain(classified, segmented)
    expected = expected if outputs else expected[:, shuffle]
    torch.testing.assert_close(renamed(classified, segmented), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("source", ["evidence", "alpha", "belief"])
def test_reliable_masks_are_gated_sums_of_scores_and_the_mutual_opinion(source):
    output = build(mask_source=source, space_to_depth=1).eval()(torch.randn(2, 3, 32, 32))
    pixels = opinion(output.mutual_logits)
    # Corners aligned, every 8th of 32 pixels: at 31 / 3 of a pixel apart.
    places = [torch.arange(4) * 31 / 3] * 2
    for level, mask, gate in zip((0, 3), output.reliable_masks, output.gates, strict=True):
        added, vacuity = getattr(pixels, source), pixels.vacuity.unsqueeze(1)
        if level == 3:
            added, vacuity = (sampled(each, *places) for each in (added, vacuity))
        torch.testing.assert_close(gate.unsqueeze(1), torch.exp(-vacuity))
        torch.testing.assert_close(
            mask, (output.segmentation[level] + added) * torch.exp(-vacuity), rtol=1e-4, atol=1e-5
        )


def sampled(feature, rows, columns):
    """Linear interpolation at places along both axes."""
    for dim, places in ((2, rows), (3, columns)):
        low = places.floor().long().clamp(max=feature.shape[dim] - 2)
        shape = [1] * 4
        shape[dim] = -1
        share = (places - low).reshape(shape)
        feature = feature.index_select(dim, low) * (1 - share) + feature.index_select(dim, low + 1) * share
    return feature


def test_the_top_block_informs_the_segmentation_only_where_it_is_asked_to():
    image = torch.randn(2, 3, 16, 16)
    for asked in (False, True):
        network = build(un_top_in_seg=asked, dropout=0)
        output = network(image)
        sum(level.square().mean() for level in output.segmentation).backward()
        reached = {name for name, each in network.navigator.top.named_parameters() if each.grad is not None}
        assert reached == ({name for name, _ in network.navigator.top.named_parameters()} if asked else set())
        before = [output.segmentation[0], output.class_logits]
        with torch.no_grad():
            network.navigator.top.out.weight.mul_(2)
        after = network(image)
        assert torch.equal(after.segmentation[0], before[0]) is not asked
        assert not torch.equal(after.class_logits, before[1])


def test_width_scales_the_channels_with_a_floor():
    small, compact = build(width=1 / 64), build(width=None)
    count = [sum(parameter.numel() for parameter in network.parameters()) for network in (small, compact)]
    assert count[0] < count[1] / 10
    assert small.segmentation_encoder.widths == (8, 8, 8, 8)
    assert compact.classification_encoder.widths == (8, 32, 64, 128)
