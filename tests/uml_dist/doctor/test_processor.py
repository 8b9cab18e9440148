"""The check of the processor."""

import pytest

from uml_dist.doctor.processor import Processor, check_processor, read_processor


@pytest.mark.parametrize(
    ("factor", "gpus", "state", "word"),
    [
        (None, 0, "ok", "AVX512, with bf16"),
        (8.04, 0, "note", "a convolution takes 8.0 times as long in bf16 as in fp32"),
        (8.04, 2, "ok", "without bf16 instructions"),
    ],
)
def test_slow_bf16_is_a_note_only_when_training_on_the_cpu(factor, gpus, state, word):
    finding = check_processor(Processor("AVX512", factor), gpus)
    assert finding.state == state
    assert word in finding.message
    assert bool(finding.remedy) == (state == "note")


def test_this_processor_can_be_read():
    found = read_processor()
    assert found.instructions
    assert found.bf16_factor is None or found.bf16_factor > 0
