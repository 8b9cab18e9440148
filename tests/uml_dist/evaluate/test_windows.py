"""Sliding windows: what they predict is what the network predicts, at any size of the image."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from uml_dist.batch import Batch, Prediction
from uml_dist.config.evaluating import WindowsConfig
from uml_dist.errors import UmlError
from uml_dist.evaluate.blending import device_with_room
from uml_dist.evaluate.windows import Windows, axis_of
from uml_shards.sample import IGNORE

SIZES = [(16, 16), (16, 24), (37, 19), (5, 40), (9, 7), (16, 16, 8), (21, 17, 13), (30, 6, 9), (3, 1, 2)]
"""Sizes of images and volumes: of a window, larger and smaller, odd, and both at once."""


def batch_of(*size, samples=2, seed=0):
    """Noise in images; the last sample has no label."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        image=torch.rand(samples, 1, *size, generator=generator),
        mask=torch.zeros(samples, *size, dtype=torch.uint8),
        label=torch.tensor([*range(1, samples), -1]),
        weight=torch.ones(samples),
        rng_key=torch.arange(samples) + 7,
        position=torch.arange(samples) + 3,
        keys=tuple(f"case-{number}" for number in range(samples)),
        meta=tuple({"spacing": [1, 1, number + 1]} for number in range(samples)),
    )


def windows_for(size, **settings):
    return Windows.of(WindowsConfig(**settings), (16, 16, 8)[: len(size)])


def everything(function):
    """Return a recipe's `predict` with every kind of prediction, from a function (B, channels, *S) -> (B, *S)."""

    def predict(batch):
        values = function(batch.image)
        mean = values.flatten(1).mean(1)
        return Prediction(
            image_probability=torch.stack([1 - mean, mean], 1),
            pixel_probability=torch.stack([1 - values, values], 1),
            lesion_probability=torch.stack([values, values / 2, values / 4], 1),
            image_vacuity=mean,
            pixel_vacuity=values,
            maps={"half": values / 2},
        )

    return predict


def tensors_of(prediction):
    names = ("image_probability", "pixel_probability", "lesion_probability", "image_vacuity", "pixel_vacuity")
    return {name: getattr(prediction, name) for name in names} | dict(prediction.maps)


def assert_close(found, expected, **tolerances):
    found, expected = tensors_of(found), tensors_of(expected)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], msg=lambda text, name=name: f"{name}: {text}", **tolerances)


@pytest.mark.parametrize("settings", [{}, {"weights": "uniform"}, {"stride": 3}, {"border": "constant", "batch": 1}])
@pytest.mark.parametrize("size", SIZES)
def test_constant_predictions_stay_constant(size, settings):
    batch, predict = batch_of(*size), everything(lambda image: torch.full_like(image[:, 0], 0.3))
    assert_close(windows_for(size, **settings).predict(batch, predict), predict(batch), rtol=2e-6, atol=0)


@pytest.mark.parametrize("settings", [{}, {"weights": "uniform", "stride": 5}, {"border": "constant"}])
@pytest.mark.parametrize("size", SIZES)
def test_a_network_that_returns_its_input_returns_it_at_any_size(size, settings):
    batch, predict = batch_of(*size), everything(lambda image: image[:, 0])
    found = windows_for(size, **settings).predict(batch, predict)
    torch.testing.assert_close(found.pixel_vacuity, batch.image[:, 0], rtol=2e-6, atol=0)
    torch.testing.assert_close(found.maps["half"], batch.image[:, 0] / 2, rtol=2e-6, atol=0)


def test_a_window_of_the_size_of_the_image_is_predicted_as_without_windows():
    network, batch = nn.Conv3d(1, 1, 3, padding=1), batch_of(16, 16, 8)
    predict = everything(lambda image: network(image)[:, 0].sigmoid())
    assert_close(windows_for((0, 0, 0)).predict(batch, predict), predict(batch), rtol=0, atol=0)


@pytest.mark.parametrize("weights", ["gaussian", "uniform"])
def test_a_place_in_one_window_only_has_exactly_its_prediction(weights):
    network, batch = nn.Conv2d(1, 1, 3, padding=1), batch_of(16, 30, samples=1)
    predict = everything(lambda image: network(image)[:, 0].sigmoid())
    windows = windows_for((0, 0), weights=weights, stride=(16, 14), batch=1)
    found = windows.predict(batch, predict).pixel_vacuity
    for place in (slice(0, 14), slice(16, 30)):
        window = slice(0, 16) if place.start == 0 else slice(14, 30)
        alone = predict(replace(batch, image=batch.image[..., window])).pixel_vacuity
        assert torch.equal(found[..., place], alone[..., place.start - window.start :][..., :14])


@pytest.mark.parametrize(("size", "stride"), [((40, 24), 8), ((37, 51), 4), ((33, 17, 19), 4), ((10, 40, 8), 4)])
def test_uniform_weights_blend_as_monai_does(size, stride):
    torch.manual_seed(0)
    network = (nn.Conv2d if len(size) == 2 else nn.Conv3d)(1, 1, 5, padding=2)
    batch = batch_of(*size)
    window = (16, 16, 8)[: len(size)]
    overlap = [1 - stride / side for side in window]
    with torch.no_grad():
        expected = sliding_window_inference(
            batch.image, window, 2, lambda image: network(image).sigmoid(), overlap=overlap, padding_mode="constant"
        )
        predict = everything(lambda image: network(image)[:, 0].sigmoid())
        found = windows_for(size, weights="uniform", stride=stride, border="constant").predict(batch, predict)
    torch.testing.assert_close(found.pixel_vacuity, expected[:, 0], rtol=1e-6, atol=1e-7)


def test_gaussian_weights_and_their_blend_are_those_of_the_formula():
    torch.manual_seed(0)
    network, batch = nn.Conv2d(1, 1, 5, padding=2), batch_of(23, 39, samples=1)
    with torch.no_grad():
        found = windows_for((0, 0)).predict(batch, everything(lambda image: network(image)[:, 0]))
        above, below = torch.zeros(23, 39, dtype=torch.float64), torch.zeros(23, 39, dtype=torch.float64)
        profile = [math.exp(-0.5 * ((at - 7.5) / 2) ** 2) for at in range(16)]
        weight = torch.tensor([[one * other for other in profile] for one in profile], dtype=torch.float64)
        predicted = []
        for top, left in product((0, 7), (0, 8, 16, 23)):
            place = (slice(top, top + 16), slice(left, left + 16))
            values = network(batch.image[:, :, *place])[0, 0]
            above[place] += weight * values
            below[place] += weight
            predicted.append((place, values.mean()))
        shares = [(weight / below[place]).sum() / (23 * 39) for place, _ in predicted]
    torch.testing.assert_close(found.pixel_vacuity[0].double(), above / below, rtol=1e-5, atol=1e-6)
    mean = sum(share * value for share, (_, value) in zip(shares, predicted, strict=True))
    assert float(sum(shares)) == pytest.approx(1)
    assert float(found.image_vacuity) == pytest.approx(float(mean), rel=1e-5)


def test_overlap_removes_what_the_borders_of_windows_do_to_a_network():
    """The network sees 4 pixels around each; beyond the borders of a window it sees zeros."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 5, padding=2))
    batch = batch_of(72, 72, samples=1)
    predict = everything(lambda image: network(image)[:, 0].sigmoid())
    with torch.no_grad():
        whole = predict(batch).pixel_vacuity[..., 16:-16, 16:-16]
        errors = {}
        for weights, stride in product(("gaussian", "uniform"), (16, 8, 4)):
            found = Windows.of(WindowsConfig(weights=weights, stride=stride, batch=32), (32, 32)).predict(
                batch, predict
            )
            errors[weights, stride] = float((found.pixel_vacuity[..., 16:-16, 16:-16] - whole).abs().max())
    assert errors["gaussian", 4] < 1e-3 < 0.02 < errors["uniform", 16]
    assert errors["gaussian", 4] < errors["gaussian", 8] < errors["gaussian", 16] < errors["uniform", 16]


@pytest.mark.parametrize(("side", "window", "stride"), [*product(range(16, 40), [16], [1, 3, 8, 15, 16])])
def test_windows_start_every_stride_and_cover_every_pixel(side, window, stride):
    axis = axis_of(side, window, stride, "gaussian")
    starts = [start for start, _ in axis]
    assert starts == sorted({min(step * stride, side - window) for step in range(side)})
    total = torch.zeros(side, dtype=torch.float64)
    for start, weights in axis:
        assert (weights > 0).all()
        total[start : start + window] += weights
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("border", ["mirror", "constant"])
def test_a_small_image_is_continued_around_its_centre(border):
    seen = []

    def predict(batch):
        seen.append(batch.image)
        return Prediction(pixel_probability=batch.image)

    batch = batch_of(5, 16, samples=1)
    found = windows_for((0, 0), border=border).predict(batch, predict).pixel_probability
    assert torch.equal(found, batch.image)
    assert torch.equal(seen[0][..., 5:10, :], batch.image)
    if border == "constant":
        assert not seen[0][..., :5, :].any()
        assert not seen[0][..., 10:, :].any()
    else:
        rows = [3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]
        assert torch.equal(seen[0], batch.image[..., rows, :])


def test_windows_come_in_batches_with_the_names_of_their_image_and_keys_of_their_own():
    seen = []

    def predict(batch):
        seen.append(batch)
        return Prediction(pixel_probability=batch.image)

    batch = batch_of(16, 32, 8)
    windows_for((0, 0, 0), batch=4).predict(batch, predict)
    assert [len(one) for one in seen] == [4, 2]
    assert all((one.mask == IGNORE).all() and one.mask.shape == one.image[:, 0].shape for one in seen)
    assert sum((one.keys for one in seen), ()) == ("case-0",) * 3 + ("case-1",) * 3
    assert torch.cat([one.label for one in seen]).tolist() == [1] * 3 + [-1] * 3
    assert torch.cat([one.position for one in seen]).tolist() == [3] * 3 + [4] * 3
    assert torch.cat([one.spacing for one in seen])[:, 2].tolist() == [1] * 3 + [2] * 3
    keys = torch.cat([one.rng_key for one in seen]).tolist()
    assert len(set(keys)) == 6
    alone = []
    windows_for((0, 0, 0), batch=1).predict(
        replace(batch, image=batch.image.flip(0), rng_key=batch.rng_key.flip(0)),
        lambda one: (alone.append(one.rng_key), Prediction(pixel_probability=one.image))[1],
    )
    assert torch.cat(alone).tolist() == keys[3:] + keys[:3], "a key depends on image and window alone"


@pytest.mark.parametrize("batches", [1, 2, 3, 7, 100])
def test_the_number_of_windows_in_a_batch_does_not_change_the_result(batches):
    batch, predict = batch_of(40, 21), everything(lambda image: image[:, 0].square())
    expected = windows_for((0, 0), batch=5).predict(batch, predict)
    assert_close(windows_for((0, 0), batch=batches).predict(batch, predict), expected, rtol=0, atol=0)


def test_predictions_are_kept_on_the_cpu_where_the_gpu_has_no_room(monkeypatch):
    """On a GPU of which 50 bytes are free, 40 more are kept by torch, and 10 of them are in use."""
    for name, value in (("mem_get_info", (50, 100)), ("memory_reserved", 40), ("memory_allocated", 10)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert device_with_room(80, torch.device("cuda")).type == "cuda"
    assert device_with_room(81, torch.device("cuda")).type == "cpu"
    assert device_with_room(1 << 60, torch.device("cpu")).type == "cpu"


@pytest.mark.parametrize(
    ("stride", "message"),
    [
        ((8, 8, 8), r"windows.stride = \[8, 8, 8\] does not fit windows of 16 x 16: give a number per axis"),
        ((8, 17), r"windows.stride = \[8, 17\] leaves gaps between windows of 16 x 16: make it smaller"),
        (32, r"windows.stride = \[32, 32\] leaves gaps"),
    ],
)
def test_a_stride_that_does_not_fit_is_refused(stride, message):
    with pytest.raises(UmlError, match=message):
        windows_for((0, 0), stride=stride)


def test_the_default_stride_is_half_a_window_and_at_least_one():
    assert Windows.of(WindowsConfig(), (16, 9, 1)).stride == (8, 4, 1)
