"""Our safetensors files are those that safetensors writes."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from uml_dist.run.tensor_file import tensor_file

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)
SHAPES = ((), (3,), (2, 3), (0, 4), (1, 2, 3, 1))


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {
        f"{number}.{place}": (torch.randn(shape, generator=generator) * 100).to(dtype)
        for number, shape in enumerate(SHAPES)
        for place, dtype in enumerate(DTYPES)
    }
    return found | {"transposed": torch.randn(4, 5, generator=generator).T, 'é "\\\n\x7f€': torch.ones(1)}


@pytest.mark.parametrize("chosen", [tensors(), {}, {"one": torch.ones(())}], ids=["many", "none", "one"])
def test_the_bytes_are_those_of_safetensors(chosen, tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in chosen.items()}, tmp_path / "theirs")
    (tmp_path / "ours").write_bytes(b"".join(tensor_file(chosen)))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    found = load_file(tmp_path / "ours")
    assert found.keys() == chosen.keys()
    for name, tensor in chosen.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
