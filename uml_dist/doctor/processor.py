"""The processor's instructions, as far as they decide how fast training on CPU processes is."""

from dataclasses import dataclass

from .finding import Finding, note, ok


@dataclass(frozen=True)
class Processor:
    """What torch makes of a processor.

    Attributes:
        instructions: the instruction set, such as AVX2.
        bf16_factor: how many times as long a convolution takes in bf16 as in fp32; None where there are instructions
            for bf16.
    """

    instructions: str
    bf16_factor: float | None


def read_processor() -> Processor:
    """The processor's instructions, and what bf16 costs without any, measured in a moment."""
    import torch

    from ..launch.precision import bf16_factor, has_bf16, instruction_set

    return Processor(instruction_set(), None if has_bf16(torch.device("cpu")) else bf16_factor())


def check_processor(processor: Processor, gpus: int) -> Finding:
    """Whether bf16 saves time on the CPU; of no matter where there are GPUs."""
    if processor.bf16_factor is None:
        return ok("processor", f"{processor.instructions}, with bf16")
    says = f"{processor.instructions}, without bf16 instructions"
    if gpus:
        return ok("processor", says)
    return note(
        "processor",
        f"{says}: a convolution takes {processor.bf16_factor:.1f} times as long in bf16 as in fp32",
        "leave train.precision at fp32, or set it to auto",
    )
