"""Fingerprint of everything that determines the bytes of a split. A run continues only a run of equal fingerprint."""

import hashlib
import json
import pickle
import sys
import zlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import __version__ as pillow_version
from PIL import features

from ..format.manifest import SCHEMA_VERSION
from ..importers.base import Importer

_LIBRARIES = ("h5py", "nibabel", "numpy", "pydicom", "pynrrd", "scipy")
"""Libraries whose version may affect what is read or resampled."""


def fingerprint_of(importer: Importer, split: str, runs: Sequence[Sequence[Any]]) -> str:
    """Return the fingerprint as JSON: importer, code, items, division into shards, and versions of the codecs."""
    items = hashlib.sha256()
    for run in runs:
        for item in run:
            # Items are pickled one by one: pickled together, items that share an object would differ from items with
            # equal objects.
            items.update(hashlib.sha256(pickle.dumps(item, protocol=5)).digest())
    return json.dumps(
        {
            "format": SCHEMA_VERSION,
            "importer": importer.name,
            "options": repr((importer.raw, importer.options, importer.manifest_options)),
            "code": _digest_of_code(importer),
            "split": split,
            "items": items.hexdigest(),
            "cut": [len(run) for run in runs],
            "pillow": [pillow_version, *(str(features.version(codec)) for codec in ("libjpeg_turbo", "jpg", "zlib"))],
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
            "libraries": {name: _version(name) for name in _LIBRARIES},
        },
        indent=1,
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _digest_of_code(importer: Importer) -> str:
    """Return the digest of the code of this package and of the importer: a change of code restarts the writing."""
    files = set(Path(__file__).parents[1].rglob("*.py"))
    for kind in type(importer).__mro__:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if file:
            files.add(Path(file))
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()
