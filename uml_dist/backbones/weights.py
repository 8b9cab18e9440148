"""Loads the published weights of an encoder from a local file, and accounts for every key."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UmlError, refusing

SUFFIXES = (".safetensors", ".pth", ".pt")
COUNTERS = re.compile(r"(.*\.)?num_batches_tracked")
NAMED = 3
RGB = 3


@dataclass(frozen=True)
class Published:
    """How the keys of published files differ from those of the module.

    Attributes:
        unused: pattern of the keys of parts that are never built.
        first: the module's key of the first convolution's weight, (outputs, channels of the image, height, width).
        renamed: maps keys of another project's file to keys of the module.
    """

    unused: re.Pattern[str]
    first: str
    renamed: Mapping[str, str] = field(default_factory=dict)


def load_weights(module: nn.Module, path: str | Path, published: Published) -> str:
    """Load a file of published weights into an encoder: all of its parameters and buffers, converted to its dtype.

    If the module is for grey images and the file for RGB images, the first convolution's weight is summed over its
    input channels, which is equivalent to repeating the grey image as R, G and B. A module on the meta device is only
    compared with the file.

    Args:
        module: an encoder whose `state_dict` has the published keys and shapes, except for the channels of the image.
        path: a .safetensors file, or a .pth file of a plain dictionary (read without running its pickled code).
        published: the keys of the file that are dropped or renamed.

    Returns:
        One line that states which keys were not used, and whether the first convolution was summed.

    Raises:
        UmlError: the file cannot be read; a key is missing or unexpected; a shape differs; or the file is for RGB
            images and the module for images that are neither RGB nor grey.
    """
    tensors = {key: tensor for key, tensor in _read(Path(path)).items() if not COUNTERS.fullmatch(key)}
    unused = [key for key in tensors if published.unused.fullmatch(key)]
    given = {published.renamed.get(key, key): tensor for key, tensor in tensors.items() if key not in unused}
    own = module.state_dict()
    for problem, keys in (("lacks", own.keys() - given.keys()), ("has unexpected", given.keys() - own.keys())):
        if keys:
            raise UmlError(f"weights {path}: the file {problem} {_few(keys)}: it is for another architecture")
    summed = _sum_over_rgb(given, published.first, own[published.first].shape, path)
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if given[key].shape != own[key].shape
    ]
    if shapes:
        raise UmlError(f"weights {path}: the file has {_few(shapes)}: it is for another architecture")
    if not any(tensor.is_meta for tensor in own.values()):
        with refusing(f"weights {path} do not fit", "download the file again"):
            module.load_state_dict(given)
    line = f"weights {path}: not used: {_few(unused) if unused else 'none'}"
    return f"{line}; first convolution summed over RGB, as the images are grey" if summed else line


def _sum_over_rgb(given: dict[str, Tensor], first: str, own: torch.Size, path: str | Path) -> bool:
    """Sum the first convolution's weight over R, G and B if the module is for grey images.

    Args:
        given: tensors by key, modified in place.
        first: key of that weight.
        own: shape of the weight in the module.
        path: path of the file, for errors.

    Returns:
        Whether it was summed. A weight that differs in more than the channels of the image is left unchanged.

    Raises:
        UmlError: the file is for RGB images, and the module for images that are neither RGB nor grey.
    """
    outputs, channels, *size = own
    if channels == RGB or given[first].shape != (outputs, RGB, *size):
        return False
    if channels != 1:
        raise UmlError(
            f"weights {path} were trained on RGB images and fit RGB or grey ones, but the images have {channels} "
            "channels: leave the weights out"
        )
    given[first] = given[first].double().sum(1, keepdim=True)
    return True


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in SUFFIXES:
        raise UmlError(f"weights {path} are neither a .safetensors nor a .pth file: choose such a file")
    with refusing(f"weights {path} are not a valid weight file", "download the file again"):
        if not path.is_file():
            raise UmlError(f"weights {path}: there is no such file: download it first")
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError:  # its message suggests to run the code in the file
            raise ValueError("it is damaged, or contains more than tensors") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
    ):
        raise UmlError(f"weights {path} are not a plain dictionary of tensors: save only the state_dict")
    return tensors


def _few(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    more = f" and {len(others) + 1 - NAMED} more" if len(others) >= NAMED else ""
    return ", ".join([first, *others[: NAMED - 1]]) + more
