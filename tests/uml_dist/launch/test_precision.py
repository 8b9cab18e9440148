"""The precision of the networks, depending on the device's instructions."""

import os
import subprocess
import sys

import pytest
import torch

from uml_dist.launch import precision
from uml_dist.launch.precision import computes_in_bf16, describe_bf16, has_bf16, instruction_set

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "instructions", "found"),
    [("fp32", True, False), ("bf16", False, True), ("auto", True, True), ("auto", False, False)],
)
def test_auto_uses_bf16_if_the_device_has_instructions_for_it(wanted, instructions, found, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: instructions)
    assert computes_in_bf16(wanted, CPU) == found


def test_bf16_without_instructions_is_noted_in_one_line_with_the_factor(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    monkeypatch.setattr(precision, "bf16_factor", lambda: 8.04)
    line = describe_bf16("bf16", CPU)
    assert line is not None
    assert "has no bf16 instructions: a convolution takes 8.0 times as long as in fp32: set it to fp32 or auto" in line
    assert "\n" not in line
    assert describe_bf16("auto", CPU) is None
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    assert describe_bf16("bf16", CPU) is None


def test_bf16_factor_is_measured():
    assert 0 < precision.bf16_factor() < float("inf")


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="needs AVX-512 to emulate AVX2")
def test_onednn_limit_is_shown_and_disables_bf16():
    code = "from uml_dist.launch.precision import *; print(instruction_set(), has_bf16(torch.device('cpu')), sep=';')"
    for limit, words in (("AVX2", {}), ("AVX2", {"ATEN_CPU_CAPABILITY": "avx2"})):
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": limit, **words}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ("AVX2;False" if words else "AVX512, oneDNN AVX2;False")


def test_instruction_set_has_a_name():
    assert instruction_set()
    assert has_bf16(CPU) in (True, False)
