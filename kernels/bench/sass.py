"""Machine code of a compiled kernel: registers, local memory, and execution counts of instructions."""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from triton.backends.nvidia import compiler as nvidia

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class Instruction(NamedTuple):
    """One line of the disassembly."""

    address: int
    name: str
    operands: str


class Usage(NamedTuple):
    """Registers, and bytes of stack and local memory per thread, which are 0 without spills."""

    registers: int
    stack: int
    local: int


def _cuobjdump(cubin: bytes, option: str) -> str:
    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout


def usage(cubin: bytes) -> Usage:
    """Return the resource usage of a kernel's threads.

    Raises:
        RuntimeError: cuobjdump printed no resource usage.
    """
    found = USAGE.search(_cuobjdump(cubin, "--dump-resource-usage"))
    if found is None:
        raise RuntimeError("cuobjdump printed no resource usage")
    registers, stack, _, local = map(int, found.groups())
    return Usage(registers, stack, local)


def instructions(cubin: bytes) -> list[Instruction]:
    """Return the kernel's code without the padding at its end."""
    lines = LINE.findall(_cuobjdump(cubin, "-sass"))
    code = [Instruction(int(address, 16), name, operands) for address, name, operands in lines]
    return [line for line in code if line.name != "NOP" and not (line.name == "BRA" and _goes_to(line) == line.address)]


def _goes_to(line: Instruction) -> int | None:
    if not line.name.startswith("BRA"):
        return None
    found = re.search(r"0x([0-9a-f]+)", line.operands)
    return int(found[1], 16) if found else None


def loops(code: list[Instruction]) -> list[tuple[int, int]]:
    """Return the first and last address of each loop: target and address of each backward branch."""
    targets = ((_goes_to(line), line.address) for line in code)
    return [(target, address) for target, address in targets if target is not None and target < address]


def executed(code: list[Instruction], trips: int) -> Counter[str]:
    """Count how often a thread that takes every branch executes each instruction, by the first part of its name.

    Args:
        code: code of the kernel.
        trips: trip count of every loop.
    """
    bodies, counts = loops(code), Counter[str]()
    for line in code:
        inside = any(first <= line.address <= last for first, last in bodies)
        counts[line.name.partition(".")[0]] += trips if inside else 1
    return counts
