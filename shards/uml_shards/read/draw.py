"""Draw the samples of a split that count as labelled: the list for a stream's `labelled_ids`."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..durable import replace_text
from ..errors import ShardError
from ..format.decode import decode_label
from ..keyed import keyed_uniform
from .part import with_truth
from .split import Split


def draw_labelled(split: Split, amount: float, seed: int = 0, quiet: bool = False) -> list[int]:
    """Draw samples by a hash of the patient, or of the key if a sample has no patient.

    All samples of a patient are drawn together until there are enough, so there may be slightly more than requested.
    Draws of one seed are nested: a smaller draw is a subset of every larger one.

    Args:
        split: split to draw from. Candidates are the samples with a mask, or with a label if no sample has a mask.
        amount: number of samples if at least 1, or else a fraction of the candidates.
        seed: random seed of the draw.
        quiet: whether to hide the progress bar.

    Returns:
        The numbers of the samples, ascending.

    Raises:
        ShardError: there are too few candidates, no sample has a mask or a label, or a tar cannot be read.
    """
    candidates = np.flatnonzero(with_truth(split)).tolist()
    if not candidates:
        raise ShardError(f"{split.path}: no sample has a mask or a label, so none can be drawn")
    if not amount > 0 or (amount >= 1 and not float(amount).is_integer()):
        raise ShardError(
            f"{amount:g} labelled samples cannot be drawn: give an integer of at least 1, or a fraction below 1"
        )
    wanted = int(amount) if amount >= 1 else max(1, round(amount * len(candidates)))
    if wanted > len(candidates):
        raise ShardError(f"{split.path}: cannot draw {wanted} samples: only {len(candidates)} have a mask or a label")
    members = defaultdict(list)
    for number in tqdm(candidates, desc="read", unit="sample", disable=quiet or None):
        members[_unit(split, number)].append(number)
    drawn: list[int] = []
    for unit in sorted(members, key=lambda unit: (float(keyed_uniform("labelled", seed, *unit)), unit)):
        if len(drawn) >= wanted:
            break
        drawn += members[unit]
    return sorted(drawn)


def save_keys(path: Path, keys: list[str], comment: str) -> None:
    """Write a list of keys, all of it or nothing. An existing file is never overwritten.

    Raises:
        ShardError: the file already exists or cannot be written, or a key is not allowed in a list.
    """
    refuse_existing(path)
    for key in keys:
        if key.startswith("#") or key.strip().splitlines() != [key]:
            raise ShardError(
                f"{path}: key {key!r} is not allowed in a list: it begins with # or has surrounding whitespace"
            )
    try:
        replace_text(path, "\n".join([f"# {comment}", *keys]) + "\n")
    except OSError as error:
        raise ShardError(f"{path} cannot be written: {error.strerror}") from None


def refuse_existing(path: Path) -> None:
    """Check that a list does not exist yet, since a run may depend on it.

    Raises:
        ShardError: the file exists.
    """
    if path.exists():
        raise ShardError(f"{path} already exists and a run may depend on it: choose another --out, or remove it")


def _unit(split: Split, number: int) -> tuple[str, str]:
    """Return the unit that is drawn together: the patient in the sample's json, or else the sample itself."""
    key, components = split.components(number)
    try:
        _, meta = decode_label(components, split.layout)
    except ShardError as error:
        raise ShardError(f"{split.path}: sample {key}: {error}") from None
    patient = meta.get("patient")
    return ("key", key) if patient in (None, "") else ("patient", str(patient))
