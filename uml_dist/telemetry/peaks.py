"""Published peak rates of GPUs, from which the utilisation of a training is computed.

All figures are dense: those of the data sheets that are "with sparsity" are halved. They are the peak of matrix
operations at boost clock; networks of small convolutions reach a fraction of it.
"""

import re
from typing import Literal

import torch

DataType = Literal["bf16", "tf32", "fp32"]
"""Products of bf16 are summed in float32; tf32 is how cuDNN computes convolutions of float32 since Ampere; fp32 uses no
tensor cores."""

TERA = 1e12

# Name of the device as CUDA reports it -> 10^12 operations per second. Names are matched as a whole: laptop GPUs,
# instances of MIG, virtual GPUs and other variants have other rates than the card that they are named after.
_PEAKS: tuple[tuple[str, dict[DataType, float]], ...] = (
    # NVIDIA V100 data sheet (2020), V100S included. No bf16 and no tf32.
    (r"Tesla V100-SXM[23]-(16|32)GB", {"fp32": 15.7}),
    (r"Tesla V100-PCIE-(16|32)GB", {"fp32": 14.0}),
    (r"Tesla V100S-PCIE-32GB", {"fp32": 16.4}),
    # NVIDIA T4 data sheet (2019). No bf16 and no tf32.
    (r"Tesla T4", {"fp32": 8.1}),
    # NVIDIA A100 data sheet (2022); the same for SXM and PCIe, 40 and 80 GB.
    (r"A100-(SXM4|PCIE)-[48]0GB|A100 80GB PCIe", {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5}),
    # NVIDIA A30 data sheet (2022).
    (r"A30", {"bf16": 165.0, "tf32": 82.0, "fp32": 10.3}),
    # NVIDIA A10 data sheet (2021).
    (r"A10", {"bf16": 125.0, "tf32": 62.5, "fp32": 31.2}),
    # NVIDIA A40 data sheet (2021).
    (r"A40", {"bf16": 149.7, "tf32": 74.8, "fp32": 37.4}),
    # NVIDIA Ampere GA102 architecture white paper (2021).
    (r"RTX A6000", {"bf16": 154.8, "tf32": 77.4, "fp32": 38.7}),
    (r"GeForce RTX 3090", {"bf16": 71.0, "tf32": 35.6, "fp32": 35.6}),
    # NVIDIA H100 data sheet (2024): tensor rates there are with sparsity. H200 and GH200 have the compute of H100 SXM.
    (r"H100 80GB HBM3|H200|GH200 (120GB|480GB|144G HBM3e)", {"bf16": 1979 / 2, "tf32": 989 / 2, "fp32": 67.0}),
    (r"H100 PCIe", {"bf16": 1513 / 2, "tf32": 756 / 2, "fp32": 51.0}),
    # NVIDIA H100 and H200 data sheets (2024), columns NVL.
    (r"H100 NVL|H200 NVL", {"bf16": 1671 / 2, "tf32": 835 / 2, "fp32": 60.0}),
    # NVIDIA Blackwell data sheet (2025), HGX B200: with sparsity. Its editions differ in fp32, so there is none here.
    (r"B200", {"bf16": 4500 / 2, "tf32": 2200 / 2}),
    # NVIDIA L4 data sheet (2023): tensor rates there are with sparsity.
    (r"L4", {"bf16": 242 / 2, "tf32": 120 / 2, "fp32": 30.3}),
    # NVIDIA L40 and L40S data sheets (2023).
    (r"L40", {"bf16": 181.05, "tf32": 90.5, "fp32": 90.5}),
    (r"L40S", {"bf16": 362.05, "tf32": 183.0, "fp32": 91.6}),
    # NVIDIA Ada GPU architecture white paper (2023).
    (r"RTX 6000 Ada Generation", {"bf16": 364.2, "tf32": 182.1, "fp32": 91.1}),
    (r"GeForce RTX 4090", {"bf16": 165.2, "tf32": 82.6, "fp32": 82.6}),
)


def peak_flops(device: str, data_type: DataType) -> float | None:
    """Return the dense peak of a device in operations per second; None if it is not known.

    Args:
        device: name as `torch.cuda.get_device_name` returns it, such as "NVIDIA A100-SXM4-80GB".
        data_type: in which most of the operations compute.
    """
    name = device.removeprefix("NVIDIA ")
    for pattern, peaks in _PEAKS:
        if re.fullmatch(pattern, name):
            peak = peaks.get(data_type)
            return None if peak is None else peak * TERA
    return None


def data_type_of(device: torch.device, bf16: bool) -> DataType:
    """Return the data type in which convolutions compute on a GPU.

    Args:
        device: the GPU.
        bf16: whether networks run in bf16 autocast.
    """
    if bf16:
        return "bf16"
    allowed = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return "tf32" if allowed and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
