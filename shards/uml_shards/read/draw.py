"""Draw which samples of a split are to count as labelled: the list of a stream's `labelled_ids`."""

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import ShardError
from ..format.decode import decode_label
from ..keyed import keyed_uniform
from .part import with_truth
from .split import Split


def draw_labelled(split: Split, amount: float, seed: int = 0, quiet: bool = False) -> list[int]:
    """Draw samples by a hash of patient, or of key where there is no patient.

    Patients are drawn whole, until there are as many samples as asked for: it may be some more. Draws of one seed are
    nested, a smaller one is part of every larger.

    Args:
        split: what is drawn from: its samples with a mask, or, where no sample has one, with a label.
        amount: number of samples from 1 on; below 1 their share.
        seed: another one is another draw.
        quiet: no progress bar.

    Returns:
        The numbers of the samples, ascending.

    Raises:
        ShardError: there are not as many, no sample has mask or label, or a tar cannot be read.
    """
    candidates = np.flatnonzero(with_truth(split)).tolist()
    if not candidates:
        raise ShardError(f"{split.path}: no sample has a mask or a label: there is nothing to draw from")
    if not amount > 0 or (amount >= 1 and not float(amount).is_integer()):
        raise ShardError(f"{amount:g} labelled samples cannot be drawn: give a number from 1 on, or a share below 1")
    wanted = int(amount) if amount >= 1 else max(1, round(amount * len(candidates)))
    if wanted > len(candidates):
        raise ShardError(f"{split.path}: of {len(candidates)} samples with mask or label {wanted} cannot be drawn")
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
    """Write a list: to a temporary file first, then renamed. Never overwrites one.

    Raises:
        ShardError: there is a file already, it cannot be written, or a key cannot stand in a list.
    """
    refuse_existing(path)
    for key in keys:
        if key.startswith("#") or key.strip().splitlines() != [key]:
            raise ShardError(f"{path}: key {key!r} cannot stand in a list: it begins with #, or has spaces around it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text("\n".join([f"# {comment}", *keys]) + "\n", encoding="utf-8")
        temporary.rename(path)
    except OSError as error:
        raise ShardError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """A list may be that of a run.

    Raises:
        ShardError: there is one.
    """
    if path.exists():
        raise ShardError(f"{path} exists: a run may depend on it; choose another --out, or remove it")


def _unit(split: Split, number: int) -> tuple[str, str]:
    """What is drawn whole: the patient that the json of a sample names, or else the sample."""
    key, components = split.components(number)
    try:
        _, meta = decode_label(components, split.layout)
    except ShardError as error:
        raise ShardError(f"{split.path}: sample {key}: {error}") from None
    patient = meta.get("patient")
    return ("key", key) if patient in (None, "") else ("patient", str(patient))
