"""Published weights: files with the published keys and shapes load; others are refused in one line."""

import re

import pytest
import torch

from published import KEYS, checkpoint, fill_statistics, save
from uml_dist.backbones import ENCODERS, load_weights
from uml_dist.backbones.normalisation import FrozenBatchNorm
from uml_dist.errors import UmlError

PUBLISHED = [name for name, kind in ENCODERS.items() if kind.published]
SUMMED = "; first convolution summed over RGB, as the images are grey"


def encoder_of(kind: str, device: str = "cpu", channels: int = 3):
    name = KEYS.get(kind, kind)
    with torch.device("meta"):
        encoder = ENCODERS[name].make(channels, ENCODERS[name].widths, FrozenBatchNorm)
    if device != "meta":
        encoder.to_empty(device=device)
        for tensor in encoder.state_dict().values():
            tensor.fill_(-1)
    return encoder, ENCODERS[name].published


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", KEYS)
def test_files_with_the_published_keys_load_completely(kind, suffix, tmp_path):
    tensors = checkpoint(kind)
    encoder, published = encoder_of(kind)
    line = load_weights(encoder, save(tensors, tmp_path / f"weights.{suffix}"), published)
    state = encoder.state_dict().values()
    loaded = {float(tensor.flatten()[0]): tensor.shape for tensor in state}
    assert all(tensor.dtype == torch.float32 and (tensor == tensor.flatten()[0]).all() for tensor in state)
    dead = re.compile(r"layer4|fc|features\.(3[4-9]|4\d)|conv5|classifier|pre_logits|head|.*num_batches")
    expected = {float(tensor.flatten()[0]): tensor.shape for key, tensor in tensors.items() if not dead.match(key)}
    assert loaded == expected
    unused = [key for key in tensors if dead.match(key) and "num_batches" not in key]
    first = ", ".join(sorted(unused)[:3])
    assert f"not used: {first} and {len(unused) - 3} more" in line


def test_renamed_keys_load_into_the_right_parameters(tmp_path):
    tensors = checkpoint("5stages_vgg16_bn of JCS")
    encoder, published = encoder_of("vgg16")
    load_weights(encoder, save(tensors, tmp_path / "vgg.pth"), published)
    state = encoder.state_dict()
    for ours, theirs in {
        "features.0.bias": "conv1_1.conv.bias",
        "features.11.running_var": "conv2_2.bn.running_var",
        "features.24.weight": "conv4_1.conv.weight",
        "features.31.weight": "conv4_3.bn.weight",
    }.items():
        assert torch.equal(state[ours], tensors[theirs])


@pytest.mark.parametrize("name", PUBLISHED)
def test_grey_image_and_its_repetition_in_rgb_give_the_same_features_and_gradients(name, tmp_path):
    torch.manual_seed(0)
    kind = ENCODERS[name]
    rgb = kind.make(3, kind.widths, FrozenBatchNorm).double()
    grey = kind.make(1, kind.widths, FrozenBatchNorm).double()
    fill_statistics(rgb)
    path = tmp_path / "weights.pth"
    torch.save(rgb.state_dict(), path)
    assert load_weights(grey, path, kind.published) == f"weights {path}: not used: none{SUMMED}"

    image = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    features, repeated = grey(image), rgb(image.repeat(1, 3, 1, 1))
    for ours, theirs in zip(features, repeated, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * float(theirs.detach().abs().max()))
    for each in (features, repeated):
        sum(feature.square().mean() for feature in each).backward()
    theirs = dict(rgb.named_parameters())
    for key, parameter in grey.named_parameters():
        # All inputs of the first convolution see the same image, so each has the gradient of their sum.
        expected = theirs[key].grad[:, :1] if key == kind.published.first else theirs[key].grad
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", KEYS)
def test_files_with_the_published_keys_load_into_an_encoder_for_grey_images(kind, suffix, tmp_path):
    tensors = checkpoint(kind)
    path = save(tensors, tmp_path / f"weights.{suffix}")
    for device in ("meta", "cpu"):
        encoder, published = encoder_of(kind, device, channels=1)
        assert load_weights(encoder, path, published).endswith(SUMMED)
    # Every tensor of the file is filled with a single number.
    (number,) = next(iter(tensors.values())).unique()
    first, *others = encoder.state_dict().values()
    assert (first == 3 * number).all()
    assert all((tensor == tensor.flatten()[0]).all() and (tensor > number).all() for tensor in others)


def refusal(kind, tensors, path, device="meta", channels=3) -> str:
    encoder, published = encoder_of(kind, device, channels)
    with pytest.raises(UmlError) as raised:
        load_weights(encoder, save(tensors, path), published)
    line = str(raised.value)
    assert str(path) in line
    assert "\n" not in line
    if device != "meta":
        assert all((tensor == -1).all() for tensor in encoder.state_dict().values())
    return line


@pytest.mark.parametrize("kind", ["res2net50 of its authors and of timm", "vgg16_bn of timm"])
def test_missing_unexpected_and_misshapen_keys_are_refused_in_one_line_and_change_nothing(kind, tmp_path):
    tensors = checkpoint(kind)
    first = next(iter(tensors))
    line = refusal(kind, {key: tensor for key, tensor in tensors.items() if key != first}, tmp_path / "a.pth", "cpu")
    assert f"the file lacks {first}: it is for another architecture" in line
    line = refusal(kind, {**tensors, "layer5.0.conv1.weight": torch.ones(1)}, tmp_path / "b.pth")
    assert "the file has unexpected layer5.0.conv1.weight: " in line
    line = refusal(kind, {**tensors, first: torch.ones(2, 3)}, tmp_path / "c.pth", "cpu")
    assert f"the file has {first} (2, 3) instead of {tuple(tensors[first].shape)}: " in line


@pytest.mark.parametrize("kind", ["res2net50 of its authors and of timm", "vgg16_bn of timm"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("channels", [2, 4])
def test_images_with_other_channels_are_refused(kind, device, channels, tmp_path):
    path = tmp_path / "a.pth"
    assert refusal(kind, checkpoint(kind), path, device, channels) == (
        f"weights {path} were trained on RGB images and fit RGB or grey ones, but the images have {channels} channels: "
        "leave the weights out"
    )


@pytest.mark.parametrize("kind", ["res2net50 of its authors and of timm", "vgg16_bn of timm"])
@pytest.mark.parametrize("shape", [(16, 3, 3, 3), (1, 3, 3, 3), (64, 3, 7, 7), (3,), ()])
def test_other_differences_of_the_first_convolution_are_refused_for_grey_images(kind, shape, tmp_path):
    tensors = checkpoint(kind)
    first = next(iter(tensors))
    own = (tensors[first].shape[0], 1, 3, 3)
    line = refusal(kind, {**tensors, first: torch.ones(shape)}, tmp_path / "a.pth", "cpu", channels=1)
    assert f"the file has {first} {shape} instead of {own}: it is for another architecture" in line


def test_weights_for_grey_images_load_unchanged_into_an_encoder_for_grey_images(tmp_path):
    tensors = checkpoint("vgg16_bn of timm")
    grey = {**tensors, "features.0.weight": torch.full((64, 1, 3, 3), 5.0)}
    encoder, published = encoder_of("vgg16", channels=1)
    assert SUMMED not in load_weights(encoder, save(grey, tmp_path / "a.pth"), published)
    assert (encoder.state_dict()["features.0.weight"] == 5).all()


def test_error_for_another_network_names_a_few_keys_and_counts_the_others(tmp_path):
    line = refusal("res2net50", checkpoint("vgg16_bn of timm"), tmp_path / "vgg.pth")
    assert re.search(
        r"the file lacks bn1\.bias, bn1\.running_mean, bn1\.running_var and \d+ more: it is for another", line
    )


def test_unused_stage_is_dropped_by_exact_name(tmp_path):
    tensors = checkpoint("res2net50 of its authors and of timm")
    line = refusal("res2net50", {**tensors, "layer40.weight": torch.ones(1)}, tmp_path / "a.pth")
    assert "has unexpected layer40.weight" in line


class Harmful:
    """An object that calls a function when it is unpickled."""

    def __reduce__(self):
        return print, ("run",)


def test_files_without_weights_are_refused_in_one_line(tmp_path, capsys):
    encoder, published = encoder_of("vgg16", "meta")

    def line(name="weights.pth"):
        with pytest.raises(UmlError) as raised:
            load_weights(encoder, tmp_path / name, published)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert line("absent.pth").endswith(": there is no such file: download it first")
    assert line("absent.safetensors").endswith(": there is no such file: download it first")
    assert "are neither a .safetensors nor a .pth file" in line("absent.onnx")
    for name in ("weights.pth", "weights.safetensors"):
        path = tmp_path / name
        path.write_bytes(b"")
        assert "are not a valid weight file" in line(name)
        path.write_bytes(b"<html>not found</html>" * 9)
        assert "are not a valid weight file" in line(name)
    path = tmp_path / "weights.pth"
    for content in ({"model": {"a": torch.ones(1)}}, [torch.ones(1)], {0: torch.ones(1)}, {"a": torch.ones(1), 1: 2}):
        torch.save(content, path)
        assert "are not a plain dictionary of tensors: save only the state_dict" in line()
    torch.save({"weight": Harmful()}, path)
    assert "are not a valid weight file: it is damaged, or contains more than tensors" in line()
    assert "are not a valid weight file: File name too long" in line("a" * 5000 + ".pth")
    assert capsys.readouterr().out == ""
