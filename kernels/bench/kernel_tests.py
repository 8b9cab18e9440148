"""The kernels' tests on a GPU, in as many processes as there are cores: most of their time is that of the compiler.

Each process takes the next test that is left, and all share one cache of compiled kernels. The results lie in --out as
they come, one line each, and at the end as junit.xml; a test that was not run is an error there.
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
    "on_gpu", "combined", "corners", "operations", "levels", "evidential", "opinion", "gating", "resizing", "special",
)  # fmt: skip
"""What only a GPU can tell comes first, then what takes longest. Files that are not named here come last."""

NOT_HERE = ("bench", "compile", "export", "gpu_check", "interpreter", "measure", "package")
"""Of tests/kernels: what needs no GPU."""

WRITTEN = ("results-*.jsonl", "collected*.json", "worker-*.log")
"""By the processes, into the folder of the results."""

FAILURES = 30
"""After which a process ends: one defect should not hide the others, and many do not need all their traces."""


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """By test, its last and worst result; "started" of a test that crashed or was stopped, "not run" of others."""
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
    """How many tests passed, failed, were skipped, crashed or did not run."""
    found = Counter(one["outcome"] for one in results.values())
    ran = found["passed"] + found["failed"]
    return (
        f"{len(results)} tests: {ran} ran, {found['passed']} passed, {found['failed']} failed; "
        f"{found['skipped']} skipped, {found['started']} crashed or stopped, {found['not run']} did not run"
    )


def are_good(results: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every test ran, or asked to be skipped, and none failed."""
    outcomes = {one["outcome"] for one in results.values()}
    return "passed" in outcomes and outcomes <= {"passed", "skipped"}


def write_junit(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """As pytest's own, for whatever reads such files."""
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
            # Control characters, such as colours, have no place in XML.
            text = "".join(c for c in one["message"] if c.isprintable() or c in "\n\t")
            ElementTree.SubElement(case, kind, message=message).text = text
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def files() -> list[str]:
    """Of tests/kernels, relative to the root."""
    every = [path.stem.removeprefix("test_") for path in sorted((ROOT / "tests" / "kernels").glob("test_*.py"))]
    chosen = [name for name in every if name not in NOT_HERE]
    chosen.sort(key=lambda name: FILES.index(name) if name in FILES else len(FILES))
    return [f"tests/kernels/test_{name}.py" for name in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests; 1 where one failed, crashed or did not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; without those of another run")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after these")
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--per-file", type=int, default=0, help="so many tests of each file; 0: all")
    parser.add_argument("files", nargs="*", default=files(), help="of tests; default: those of the kernels")
    chosen = parser.parse_args(arguments)
    out = chosen.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for old in (path for pattern in WRITTEN for path in out.glob(pattern)):
        old.unlink()
    # Warnings are read once, not by every process; a file that cannot be imported must not hide the others.
    words = ["-q", "-p", "no:cacheprovider", "-p", "claimed_tests", "--continue-on-collection-errors", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *words, f"--maxfail={FAILURES}", "--rootdir", str(ROOT), *chosen.files]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        claims = Path(folder) / "claims"
        known = {
            "UML_TESTS_OUT": str(out), "UML_TESTS_CLAIMS": str(claims), "UML_TESTS_PER_FILE": str(chosen.per_file),
            # The references run on the CPU: with threads of their own they would take each other's cores.
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
