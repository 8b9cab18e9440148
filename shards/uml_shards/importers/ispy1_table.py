"""Read the table of I-SPY 1: the outcome of each patient, and the split of each patient."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import ShardError
from ..sources.table import read_table
from .partition import draw_shares

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def read_outcomes(raw: Path) -> dict[str, int]:
    """Map patient -> 1 for a complete response, else 0, in the table's order. Patients without outcome are omitted.

    Raises:
        ShardError: the table or a column is missing, a row is invalid, or a patient has two rows.
    """
    table = next((raw / name for name in ("outcome_new.csv", "outcome_new.xlsx") if (raw / name).is_file()), None)
    if table is None:
        raise ShardError(f"ispy1: {raw} contains neither outcome_new.csv nor outcome_new.xlsx")
    outcomes: dict[str, int] = {}
    for number, row in enumerate(read_table(table), start=2):
        if not {"SUBJECTID", "PCR"} <= row.keys():
            raise ShardError(f"ispy1: {table} needs the columns SUBJECTID and PCR")
        patient, outcome = (str("" if row[name] is None else row[name]).strip() for name in ("SUBJECTID", "PCR"))
        if outcome == "":
            continue
        patient = patient.removesuffix(".0")
        where = f"ispy1: {table} row {number}: patient {patient!r}"
        if outcome not in ("0", "1", "0.0", "1.0"):
            raise ShardError(f"{where} has PCR {outcome!r}: must be 0 or 1, or empty if unknown")
        if not patient.isalnum():
            raise ShardError(f"{where}: SUBJECTID must be letters and digits")
        if patient in outcomes:
            raise ShardError(f"{where} has a second row")
        outcomes[patient] = int(float(outcome))
    return outcomes


def draw_splits(outcomes: Mapping[str, int], seed: int) -> dict[str, str]:
    """Map patient -> split, drawn by a seed with the same proportions in each class."""
    return draw_shares(outcomes, SHARES, seed, "ispy1", "splits")


def order_splits(outcomes: Mapping[str, int]) -> dict[str, str]:
    """Map patient -> split by the order of the patients of each class, like UML's authors.

    Of the n patients of a class, the last n // 10 are test, the n // 10 before them are val, and all others are train.
    The data set's 114 and 43 patients give 92 and 35 for train, 11 and 4 for val, 11 and 4 for test, as stated in the
    authors' code.
    """
    found = {}
    for label in sorted(set(outcomes.values())):
        patients = [patient for patient, outcome in outcomes.items() if outcome == label]
        tenth = len(patients) // 10
        for place, patient in enumerate(patients):
            from_end = len(patients) - place
            found[patient] = "test" if from_end <= tenth else "val" if from_end <= 2 * tenth else "train"
    return found
