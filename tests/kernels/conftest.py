"""The device of the kernels' tests: the CPU, which with TRITON_INTERPRET=1 interprets the GPU kernels."""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"
if INTERPRETED:
    from interpreter import repair_interpreter

    repair_interpreter()


@pytest.fixture
def device() -> torch.device:
    """UML_KERNELS_DEVICE, or the CPU."""
    return torch.device(os.environ.get("UML_KERNELS_DEVICE", "cpu"))


@pytest.fixture
def doubles(device) -> None:
    """Skips where the kernels run, which know float32 and less."""
    if INTERPRETED or device.type != "cpu":
        pytest.skip("float64 is the CPU implementations' alone")
