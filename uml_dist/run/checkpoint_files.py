"""Writes the files of a checkpoint; without torch, so that the program that does it in the background starts fast."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from uml_shards.durable import sync_folder, write_text

from ..errors import UmlError
from .checkpoint_folder import folder_name, point, prune, tidy

Files = Mapping[str, Iterable[bytes | memoryview]]
"""The files of a checkpoint: name -> its pieces."""


def save_files(folder: Path, step: int, files: Files, pointers: Sequence[str] = (), keep: int | None = None) -> Path:
    """Write a checkpoint into a run's `checkpoints` folder and point `latest` to it. One process calls it.

    Args:
        folder: the `checkpoints` folder.
        step: the step of the checkpoint.
        files: its files except for MANIFEST.json.
        pointers: names of further pointers to it.
        keep: number of newest checkpoints to keep; by default, none is removed.

    Returns:
        The checkpoint's folder.

    Raises:
        UmlError: it cannot be written; the previous checkpoints are unchanged.
    """
    final = folder / folder_name(step)
    temporary = folder / f".{final.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
        write_files(temporary, files)
        if final.exists():
            final.rename(folder / f".{final.name}.old")
        temporary.rename(final)
        sync_folder(folder)
        for pointer in ("latest", *pointers):
            point(folder / pointer, final.name)
        tidy(folder)
        if keep is not None:
            prune(folder, keep)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)  # the disk is probably full: leave room for status and log
        raise UmlError(
            f"checkpoint {final} cannot be written: {error.strerror or error}: make room or fix the disk, then resume "
            f"with --run {folder.parent}"
        ) from None
    return final


def write_files(folder: Path, files: Files) -> None:
    """Write the files of a checkpoint, with the list of their digests, into a new folder and sync them to the disk.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir()
    digests = {}
    for name, pieces in files.items():
        # Of what is to be written and not of what can be read back: it finds what the disk has changed as well.
        digest = hashlib.sha256()
        with (folder / name).open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        digests[name] = digest.hexdigest()
    write_text(folder / "MANIFEST.json", json.dumps(dict(sorted(digests.items())), indent=1) + "\n")
    sync_folder(folder)
