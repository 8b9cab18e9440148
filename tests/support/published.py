"""Weight files with every key and shape of the published ones."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from uml_dist.backbones.normalisation import FrozenBatchNorm

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
    """Yield the keys of res2net50_v1b_26w_4s and timm's res2net50d: deep stem, average pooling in the shortcut."""
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
    # Small stand-ins for the classifiers, whose 120 M weights are not read.
    if project == "torchvision":
        yield from ((f"classifier.{layer}.{key}", (1,)) for layer in (0, 3, 6) for key in ("weight", "bias"))
    if project == "timm":
        layers = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
        yield from ((f"{layer}.{key}", (1,)) for layer in layers for key in ("weight", "bias"))


def checkpoint(kind: str) -> dict[str, Tensor]:
    """Return a tensor for every key of a published file, each filled with a different number."""
    keys = res2net_keys() if kind.startswith("res2net") else vgg_keys(kind.rpartition(" ")[2])
    return {
        key: torch.tensor(index, dtype=torch.long if key.endswith("tracked") else torch.float32).expand(shape)
        for index, (key, shape) in enumerate(keys, 1)
        if not (kind == "5stages_vgg16_bn of JCS" and key.endswith("tracked"))
    }


def save(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """Write a .safetensors or .pth file."""
    if path.suffix == ".safetensors":
        # Some files are published in half precision.
        save_file({key: tensor.half().contiguous() for key, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


def fill_statistics(module: nn.Module) -> None:
    """Set the statistics and affine parameters of frozen batch norms to random values, like after training."""
    for norm in module.modules():
        if isinstance(norm, FrozenBatchNorm):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.3)
            norm.running_mean.normal_(std=0.3)
            norm.running_var.uniform_(0.2, 2)
