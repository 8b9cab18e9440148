"""Runs the kernels' tests on a GPU in as many processes as there are cores, since compilation takes most of their time.

Each process claims the next remaining test, and all share one cache of compiled kernels. Results are written to --out
immediately, one line each, and at the end as junit.xml, where a test that did not run is an error.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from processes import cores, work_together

ROOT = Path(__file__).parents[2]
FILES = (
    "on_gpu", "combined", "corners", "operations", "levels", "evidential", "opinion", "gating", "resizing", "distance",
    "consistency", "passes", "special",
)  # fmt: skip
"""Order of the test files: those that need a GPU, then the slowest. Other files come last."""

NOT_HERE = ("bench", "compile", "export", "gpu_check", "interpreter", "measure", "package")
"""Files of tests/kernels that do not need a GPU."""

WRITTEN = ("results-*.jsonl", "collected*.json", "worker-*.log")
"""Files that the processes write to the folder of the results."""

FAILURES = 30
"""Number of failures after which a process ends: enough to show several defects, without all traces of a common one."""


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the last and worst result of each test by name.

    The outcome is "started" for a test that crashed or was stopped, and "not run" for one that never started.
    """
    order = ("not run", "started", "skipped", "passed", "failed")
    collected = folder / "collected.json"
    names = json.loads(collected.read_text(encoding="utf-8")) if collected.exists() else []
    found = {name: {"test": name, "outcome": "not run", "seconds": 0.0, "message": ""} for name in names}
    for path in sorted(folder.glob("results-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the last line of a process that was killed
            known = found.get(line["test"], line)
            if order.index(line["outcome"]) >= order.index(known["outcome"]):
                found[line["test"]] = line
    return found


def count(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the numbers of tests that passed, failed, were skipped, crashed or did not run, as text."""
    found = Counter(one["outcome"] for one in results.values())
    ran = found["passed"] + found["failed"]
    return (
        f"{len(results)} tests: {ran} ran, {found['passed']} passed, {found['failed']} failed; "
        f"{found['skipped']} skipped, {found['started']} crashed or stopped, {found['not run']} did not run"
    )


def are_good(results: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether every test passed or was skipped, and at least one passed."""
    outcomes = {one["outcome"] for one in results.values()}
    return "passed" in outcomes and outcomes <= {"passed", "skipped"}


def write_junit(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the results in the format of pytest's own junit.xml."""
    found = Counter(one["outcome"] for one in results.values())
    totals = {
        "tests": len(results), "failures": found["failed"], "skipped": found["skipped"],
        "errors": found["started"] + found["not run"],
    }  # fmt: skip
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", name="kernels", **{key: str(n) for key, n in totals.items()})
    for name, one in results.items():
        file, _, test = name.partition("::")
        words = {"classname": file.removesuffix(".py").replace("/", "."), "name": test, "time": str(one["seconds"])}
        case = ElementTree.SubElement(suite, "testcase", words)
        kind = {"failed": "failure", "skipped": "skipped", "started": "error", "not run": "error"}.get(one["outcome"])
        if kind is not None:
            message = {"started": "crashed or stopped", "not run": "did not run"}.get(one["outcome"], "")
            # Control characters, such as colours, are not allowed in XML
            text = "".join(c for c in one["message"] if c.isprintable() or c in "\n\t")
            ElementTree.SubElement(case, kind, message=message).text = text
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def files() -> list[str]:
    """Return the test files to run, relative to the root of the repository."""
    every = [path.stem.removeprefix("test_") for path in sorted((ROOT / "tests" / "kernels").glob("test_*.py"))]
    chosen = [name for name in every if name not in NOT_HERE]
    chosen.sort(key=lambda name: FILES.index(name) if name in FILES else len(FILES))
    return [f"tests/kernels/test_{name}.py" for name in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests; return 1 if one failed, crashed or did not run, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; earlier ones are removed")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after this time")
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--per-file", type=int, default=0, help="number of tests to run per file; 0: all")
    parser.add_argument("files", nargs="*", default=files(), help="test files; default: those of the kernels")
    chosen = parser.parse_args(arguments)
    out = chosen.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for old in (path for pattern in WRITTEN for path in out.glob(pattern)):
        old.unlink()
    # Every process would repeat the warnings; a file that cannot be imported must not hide the others
    words = ["-q", "-p", "no:cacheprovider", "-p", "claimed_tests", "--continue-on-collection-errors", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *words, f"--maxfail={FAILURES}", "--rootdir", str(ROOT), *chosen.files]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        claims = Path(folder) / "claims"
        known = {
            "UML_TESTS_OUT": str(out), "UML_TESTS_CLAIMS": str(claims), "UML_TESTS_PER_FILE": str(chosen.per_file),
            # The references run on the CPU: with more threads they would compete for cores
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        ended = work_together(
            command, chosen.processes, chosen.seconds, claims, out, os.environ | known, final=(0, 1, 5)
        )
    results = results_of(out)
    write_junit(results, out / "junit.xml")
    for name, one in results.items():
        if one["outcome"] not in ("passed", "skipped"):
            print(f"{one['outcome'].upper()} {name}\n{one['message'][-1500:]}")
    slowest = sorted(results.values(), key=lambda one: one["seconds"], reverse=True)[:5]
    print("slowest: " + ", ".join(f"{one['test'].rpartition('::')[2]} {one['seconds']:.1f} s" for one in slowest))
    print(f"{count(results)}{'' if ended else f'; stopped after {chosen.seconds:.0f} s'}")
    return 0 if are_good(results) and ended else 1


if __name__ == "__main__":
    sys.exit(main())
