"""Read thousands of damaged files of every kind, and print what became of them; exit code 1 if a reader crashed."""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

from fuzzing import Outcomes, Target, fuzz
from run_targets import run_targets
from shard_targets import shard_targets

SOURCES: tuple[Callable[[Path], Iterable[Target]], ...] = (shard_targets, run_targets)
"""Functions that yield targets, and may write their files in the given folder."""

COLUMNS = ("inputs", "unchanged", "refused", "other content", "crash")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzing and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000, help="inputs per target (default: 5000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default: 0)")
    parser.add_argument("--only", default="", metavar="WORDS", help="only targets whose name contains these words")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # decoders warn about damaged metadata
    print(f"seed {given.seed}\n{'target':36}" + "".join(f"{name:>15}" for name in COLUMNS))
    found: list[tuple[str, Outcomes]] = []
    with tempfile.TemporaryDirectory() as folder:
        for targets in SOURCES:
            for target in targets(Path(folder)):
                if given.only in target.name:
                    outcomes = fuzz(target, given.seed, range(given.first, given.first + given.inputs))
                    found.append((target.name, outcomes))
                    counts = {**outcomes.counts, "inputs": given.inputs}
                    print(f"{target.name:36}" + "".join(f"{counts.get(name, 0):>15}" for name in COLUMNS), flush=True)
    print("\nread with other content than before, by the part that was changed:")
    for name, outcomes in found:
        places = ", ".join(f"{place} {count}" for place, count in outcomes.places.most_common())
        print(f"{name:36}  {places or 'none'}")
    crashes = [crash for _, outcomes in found for crash in outcomes.crashes]
    print("".join(f"\ncrash: {crash}" for crash in crashes), end="\n" if crashes else "")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
