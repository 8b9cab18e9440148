"""Checks the processor's instructions, which determine the speed of training on CPU processes."""

from dataclasses import dataclass

from .finding import Finding, note, ok


@dataclass(frozen=True)
class Processor:
    """The processor's capabilities as used by torch.

    Attributes:
        instructions: the instruction set, such as AVX2.
        bf16_factor: how many times as long a convolution takes in bf16 as in fp32; None with bf16 instructions.
    """

    instructions: str
    bf16_factor: float | None


def read_processor() -> Processor:
    """Return the processor's instruction set and, without bf16 instructions, the measured cost of bf16."""
    import torch

    from ..launch.precision import bf16_factor, has_bf16, instruction_set

    return Processor(instruction_set(), None if has_bf16(torch.device("cpu")) else bf16_factor())


def check_processor(processor: Processor, gpus: int) -> Finding:
    """Check whether bf16 saves time on the CPU; irrelevant if there are GPUs."""
    if processor.bf16_factor is None:
        return ok("processor", f"{processor.instructions}, with bf16")
    message = f"{processor.instructions}, without bf16 instructions"
    if gpus:
        return ok("processor", message)
    return note(
        "processor",
        f"{message}: a convolution takes {processor.bf16_factor:.1f} times as long in bf16 as in fp32",
        "leave train.precision at fp32, or set it to auto",
    )
