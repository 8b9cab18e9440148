"""Fixtures of the kernel tests; with TRITON_INTERPRET=1 the CPU interprets the GPU kernels."""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"
if INTERPRETED:
    from interpreter import repair_interpreter

    repair_interpreter()


@pytest.fixture
def device() -> torch.device:
    """The device in UML_KERNELS_DEVICE, or the CPU."""
    return torch.device(os.environ.get("UML_KERNELS_DEVICE", "cpu"))


@pytest.fixture
def doubles(device) -> None:
    """Skip the test where the kernels run, which do not support float64."""
    if INTERPRETED or device.type != "cpu":
        pytest.skip("only the CPU implementations support float64")
