"""Published weights: files with every key and shape of the published ones load; any other is one line."""

import re
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from uml_dist.backbones import ENCODERS, load_weights
from uml_dist.backbones.normalisation import FrozenBatchNorm
from uml_dist.errors import UmlError

BLOCKS = (3, 4, 6, 3)
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
KEYS = {
    "res2net50 of its authors and of timm": "res2net50",
    "vgg16_bn of torchvision": "vgg16",
    "vgg16_bn of timm": "vgg16",
    "5stages_vgg16_bn of JCS": "vgg16",
}


def norm(prefix: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for key in ("weight", "bias", "running_mean", "running_var"):
        yield f"{prefix}.{key}", (channels,)
    yield f"{prefix}.num_batches_tracked", ()


def res2net_keys() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys of res2net50_v1b_26w_4s, and of timm's res2net50d: a deep stem and average pooling in the shortcut."""
    for place, inputs, outputs in ((0, 3, 32), (3, 32, 32), (6, 32, 64)):
        yield f"conv1.{place}.weight", (outputs, inputs, 3, 3)
        yield from norm(f"conv1.{place + 1}" if place < 6 else "bn1", outputs)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS, 1):
        planes = 32 << stage
        width, outputs = planes * 26 // 64, 4 * planes
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            yield f"{prefix}.conv1.weight", (4 * width, inputs, 1, 1)
            yield from norm(f"{prefix}.bn1", 4 * width)
            for scale in range(3):
                yield f"{prefix}.convs.{scale}.weight", (width, width, 3, 3)
                yield from norm(f"{prefix}.bns.{scale}", width)
            yield f"{prefix}.conv3.weight", (outputs, 4 * width, 1, 1)
            yield from norm(f"{prefix}.bn3", outputs)
            if block == 0:
                yield f"{prefix}.downsample.1.weight", (outputs, inputs, 1, 1)
                yield from norm(f"{prefix}.downsample.2", outputs)
            inputs = outputs
    yield from (("fc.weight", (1000, 2048)), ("fc.bias", (1000,)))


def vgg_keys(project: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    place, inputs = 0, 3
    for stage, widths in enumerate(VGG, 1):
        for number, width in enumerate(widths, 1):
            ours = project == "JCS"
            convolution = f"conv{stage}_{number}.conv" if ours else f"features.{place}"
            yield f"{convolution}.weight", (width, inputs, 3, 3)
            yield f"{convolution}.bias", (width,)
            yield from norm(f"conv{stage}_{number}.bn" if ours else f"features.{place + 1}", width)
            place, inputs = place + 3, width
        place += 1
    # Thin stand-ins for the classifiers, whose 120 M weights nobody reads.
    if project == "torchvision":
        yield from ((f"classifier.{layer}.{key}", (1,)) for layer in (0, 3, 6) for key in ("weight", "bias"))
    if project == "timm":
        layers = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
        yield from ((f"{layer}.{key}", (1,)) for layer in layers for key in ("weight", "bias"))


def checkpoint(kind: str) -> dict[str, Tensor]:
    """Tensors, each full of one number that tells it from the others, under every key of a published file."""
    keys = res2net_keys() if kind.startswith("res2net") else vgg_keys(kind.rpartition(" ")[2])
    return {
        key: torch.tensor(index, dtype=torch.long if key.endswith("tracked") else torch.float32).expand(shape)
        for index, (key, shape) in enumerate(keys)
        if not (kind == "5stages_vgg16_bn of JCS" and key.endswith("tracked"))
    }


def encoder_of(kind: str, device: str = "cpu"):
    name = KEYS.get(kind, kind)
    with torch.device("meta"):
        encoder = ENCODERS[name].make(3, ENCODERS[name].widths, FrozenBatchNorm)
    if device != "meta":
        encoder.to_empty(device=device)
        for tensor in encoder.state_dict().values():
            tensor.fill_(-1)
    return encoder, ENCODERS[name].published


def save(tensors, path):
    if path.suffix == ".safetensors":
        # In half precision, as some are published.
        save_file({key: tensor.half().contiguous() for key, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", KEYS)
def test_files_with_the_published_keys_load_whole(kind, suffix, tmp_path):
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


def test_the_parts_arrive_where_they_belong(tmp_path):
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


def refusal(kind, tensors, path, device="meta") -> str:
    encoder, published = encoder_of(kind, device)
    with pytest.raises(UmlError) as raised:
        load_weights(encoder, save(tensors, path), published)
    line = str(raised.value)
    assert str(path) in line
    assert "\n" not in line
    if device != "meta":
        assert all((tensor == -1).all() for tensor in encoder.state_dict().values())
    return line


@pytest.mark.parametrize("kind", ["res2net50 of its authors and of timm", "vgg16_bn of timm"])
def test_missing_unexpected_and_misshapen_keys_are_one_line_and_change_nothing(kind, tmp_path):
    tensors = checkpoint(kind)
    first = next(iter(tensors))
    line = refusal(kind, {key: tensor for key, tensor in tensors.items() if key != first}, tmp_path / "a.pth", "cpu")
    assert f"the file lacks {first}: it is of another architecture" in line
    line = refusal(kind, {**tensors, "layer5.0.conv1.weight": torch.ones(1)}, tmp_path / "b.pth")
    assert "the file has unexpected layer5.0.conv1.weight: " in line
    line = refusal(kind, {**tensors, first: torch.ones(2, 3)}, tmp_path / "c.pth", "cpu")
    assert f"the file has {first} (2, 3) instead of {tuple(tensors[first].shape)}: " in line


def test_a_file_of_another_network_names_a_few_keys_and_counts_the_others(tmp_path):
    line = refusal("res2net50", checkpoint("vgg16_bn of timm"), tmp_path / "vgg.pth")
    assert re.search(
        r"the file lacks bn1\.bias, bn1\.running_mean, bn1\.running_var and \d+ more: it is of another", line
    )


def test_the_dead_stage_is_dropped_by_name_and_not_by_resemblance(tmp_path):
    tensors = checkpoint("res2net50 of its authors and of timm")
    line = refusal("res2net50", {**tensors, "layer40.weight": torch.ones(1)}, tmp_path / "a.pth")
    assert "has unexpected layer40.weight" in line


class Harmful:
    """Pickles to a call."""

    def __reduce__(self):
        return print, ("run",)


def test_files_that_hold_no_weights_are_one_line(tmp_path, capsys):
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
        assert "are no readable weight file" in line(name)
        path.write_bytes(b"<html>not found</html>" * 9)
        assert "are no readable weight file" in line(name)
    path = tmp_path / "weights.pth"
    for content in ({"model": {"a": torch.ones(1)}}, [torch.ones(1)]):
        torch.save(content, path)
        assert "hold something else than a dictionary of tensors: save a state_dict alone" in line()
    torch.save({"weight": Harmful()}, path)
    assert "are no readable weight file" in line()
    assert capsys.readouterr().out == ""
