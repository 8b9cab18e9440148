"""Static figures of every compiled kernel, without a GPU: `make bench-static`.

Lists registers, spills, 128-bit loads, and instructions per pixel of the target map, where loop bodies are multiplied
by their trip counts.

    PYTHONPATH=kernels:kernels/bench python kernels/bench/static.py --markdown
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import triton
from tqdm import tqdm
from triton.compiler.errors import CompilationError

from builds import CALLS, Build, Built, builds, built
from compile import AMD, NVIDIA
from report import RESULTS, stamp, write_rows

COLUMNS = {
    "call": "call", "kernel": "kernel", "classes": "C", "dtype": "dtype", "layout": "channels", "architecture": "for",
    "registers": "registers", "spills": "spills", "wide_loads": "128-bit loads",
    "instructions_per_pixel": "instructions/pixel", "special_per_pixel": "MUFU/pixel", "bytes_per_pixel": "bytes/pixel",
}  # fmt: skip
"""Columns of the printed table and their headings."""


def row(one: Built) -> dict[str, Any]:
    """Return a row of the table."""
    build, launch, compiled = one
    return {
        "call": build.operation,
        "kernel": launch.name,
        "classes": build.classes,
        "dtype": build.dtype,
        "layout": build.layout,
        "architecture": compiled.architecture,
        "block": launch.constants.get("BLOCK", 0),
        "iterations": launch.constants.get("ITERATIONS", 1),
        "warps": launch.warps,
        "registers": compiled.registers,
        "local_bytes": compiled.local_bytes,
        "spills": compiled.spills,
        "wide_loads": compiled.wide_loads,
        "loops": compiled.loops,
        "instructions_per_pixel": round(one.instructions_per_pixel, 1),
        "special_per_pixel": round(one.special_per_pixel, 2),
        "bytes_per_pixel": round(one.bytes_per_pixel, 2),
    }


def rows(chosen: Iterable[Build], architectures: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of all kernels of some builds.

    If sm_90 is among the architectures, builds that are not `everywhere` are compiled for sm_90 only. A build that does
    not compile is reported on stderr and has no row.
    """
    for build in tqdm(list(chosen), unit="build", leave=False):
        for architecture in architectures:
            if not build.everywhere and architecture != "sm_90" and "sm_90" in architectures:
                continue
            try:
                yield from map(row, built(build, architecture))
            except CompilationError as error:
                reason = str(error.__cause__ or error).strip().splitlines()[0]
                print(f"error: {build} does not compile for {architecture}: {reason}", file=sys.stderr)


def table(lines: Sequence[dict[str, Any]], markdown: bool) -> str:
    """Format the rows as text or as a Markdown table."""
    cells = [list(COLUMNS.values()), *([str(line[key]).replace("nan", "-") for key in COLUMNS] for line in lines)]
    if markdown:
        cells.insert(1, ["---"] * len(COLUMNS))
        return "\n".join(f"| {' | '.join(each)} |" for each in cells)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True)) for each in cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile the kernels, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--call", choices=CALLS, action="append", help="compile only this call; repeatable")
    parser.add_argument("--architecture", action="append", help=f"such as sm_90 or {AMD}; default: {', '.join(NVIDIA)}")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--quick", action="store_true", help="one build of each call")
    parser.add_argument("--out", type=Path, default=RESULTS / "static.csv")
    chosen = parser.parse_args(arguments)
    wanted = [build for build in builds() if build.operation in (chosen.call or CALLS)]
    if chosen.quick:
        wanted = list({build.operation: build for build in reversed(wanted)}.values())
    lines = list(rows(wanted, chosen.architecture or NVIDIA))
    print(table(lines, chosen.markdown))
    write_rows(chosen.out, [line | {"triton": triton.__version__} | stamp() for line in lines])
    print(f"\n{len(lines)} kernels, {sum(line['spills'] for line in lines)} spills; written to {chosen.out}")


if __name__ == "__main__":
    main()
