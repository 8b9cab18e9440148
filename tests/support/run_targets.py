"""Targets of the fuzzing: the files of a checkpoint, and configurations."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoints import save
from fuzzing import Target
from uml_dist.config.loading import dump, read_config, validate
from uml_dist.errors import UmlError
from uml_dist.run.checkpoint import read_networks, read_state, verify

TREE = {"recipe": "uml", "streams": {"train": {"shards": "data/shards/phantom", "count": 16}}, "train": {"steps": 10}}


def run_targets(folder: Path) -> Iterator[Target]:
    """Yield a target for each file of a checkpoint, verified and not, and for a configuration."""
    saved = save(folder / "run")
    for name in sorted(path.name for path in saved.iterdir()):
        yield _file_target(f"{name}, verified", saved, name, _verify_and_read)
        if name != "MANIFEST.json":  # which only `verify` reads
            yield _file_target(name, saved, name, _read)
    data = dump(validate(TREE, "tree")).encode()

    def read(data: bytes) -> object:
        (folder / "run.toml").write_bytes(data)
        return read_config(folder / "run.toml")

    yield Target("configuration", data, read, (UmlError,), lambda at: _line(data, at))


def _file_target(name: str, saved: Path, changed: str, read: Callable[[Path], object]) -> Target:
    """Return a target of a checkpoint in which one file is replaced by the input."""
    copy = shutil.copytree(saved, saved.parents[2] / name.replace(",", "").replace(" ", "_") / saved.name)
    data = (copy / changed).read_bytes()

    def replace_and_read(data: bytes) -> object:
        (copy / changed).write_bytes(data)
        return read(copy)

    part = _part_of_tensors if changed.endswith(".safetensors") else _line
    return Target(name, data, replace_and_read, (UmlError,), lambda at: part(data, at))


def _read(saved: Path) -> object:
    networks = {
        name: [
            {key: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for key, tensor in tensors.items()}
            for tensors in (state.weights, *state.moments.values())
        ]
        for name, state in read_networks(saved).items()
    }
    return read_state(saved), networks


def _verify_and_read(saved: Path) -> object:
    verify(saved)
    return _read(saved)


def _part_of_tensors(data: bytes, at: int) -> str:
    return "header" if at < 8 + int.from_bytes(data[:8], "little") else "values"


def _line(data: bytes, at: int) -> str:
    """Return the first word of the line of a text at an offset."""
    start, stop = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
    words = data[start : stop if stop >= 0 else None].strip(b' "[]{},').split()
    return words[0].decode().strip('":,') if words else "brackets"
