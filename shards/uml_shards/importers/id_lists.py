"""Read the lists of case ids that define the splits of a data set, one id per line."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

from ..errors import ShardError, reading
from ..files import read_regular
from .partition import refuse_shared

Absent = Literal["error", "skip"]
"""What to do with ids of a list that are not among the cases."""

ABSENT = "ids of a list that are not in RAW: error; skip: take the others, and count them"
"""Description of a setting of this type."""

_ENDINGS = (".nii.gz", ".nii", ".h5", ".hdf5", ".nrrd")
_MAX_BYTES = 1 << 24


def read_ids(path: Path) -> list[str]:
    """Return the ids of a list, in order. An id may be written as a path or with the ending of a file.

    Raises:
        ShardError: the list cannot be read, contains no id, or contains one twice.
    """
    with reading(path):
        lines = read_regular(path, _MAX_BYTES).decode("utf-8-sig").splitlines()
    found: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
        name = name.removesuffix(next((ending for ending in _ENDINGS if name.lower().endswith(ending)), ""))
        if not name:
            continue
        if name in found:
            raise ShardError(f"{path}, line {number}: id {name} is already in line {found[name]}: remove one")
        found[name] = number
    if not found:
        raise ShardError(f"{path} contains no ids: write one per line")
    return list(found)


def read_splits(
    lists: Mapping[str, Path], cases: Collection[str], absent: Absent, note: Callable[[str, int], None]
) -> dict[str, list[str]]:
    """Return the cases of each split, in the order of its list.

    Args:
        lists: split -> list of ids.
        cases: ids of the cases that are there.
        absent: "error" refuses ids without a case; "skip" leaves them out.
        note: told how many ids have no case, and how many cases are in no list.

    Raises:
        ShardError: a list cannot be used, an id is in two lists, or ids have no case.
    """
    listed = {split: read_ids(path) for split, path in lists.items()}
    refuse_shared(listed)
    for split, ids in listed.items():
        missing = [one for one in ids if one not in cases]
        if missing and (absent == "error" or len(missing) == len(ids)):
            hint = "" if len(missing) == len(ids) else ", or use absent=skip to take the others"
            raise ShardError(
                f"{len(missing)} of the {len(ids)} ids in {lists[split]} are not among the {len(cases)} cases in RAW, "
                f"first {missing[0]}: complete the data{hint}"
            )
        if missing:
            note(f"ids of {lists[split].name} that are not in RAW, first {missing[0]}", len(missing))
    left = sorted(set(cases) - {one for ids in listed.values() for one in ids})
    if left:
        note(f"cases in no list, not used, first {left[0]}", len(left))
    return {split: [one for one in ids if one in cases] for split, ids in listed.items()}
