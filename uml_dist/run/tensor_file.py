"""The bytes of a safetensors file, piece by piece: safetensors itself can write to a path or to one large copy only."""

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

# In the order of the file: safetensors sorts by alignment, largest first.
_NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PLACES = {dtype: place for place, dtype in enumerate(_NAMES)}


def tensor_file(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the pieces of a safetensors file, the same bytes as those of `safetensors.torch.save_file`.

    Args:
        tensors: tensors on the CPU, by name; contiguous ones are not copied.
    """
    ordered = sorted(tensors.items(), key=lambda item: (_PLACES[item[1].dtype], item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
