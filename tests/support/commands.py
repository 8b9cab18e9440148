"""Calls the programs of launchers/ in the process of the tests."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Done = tuple[Any, str, str]
"""Exit code, stdout and stderr of a call."""


RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")


def leave_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what a launcher sets in the environment, so that a program starts as on the command line."""
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def load_script(path: Path) -> ModuleType:
    """Load a program as a module, without calling `main`."""
    specification = importlib.util.spec_from_file_location(f"{path.stem}_command", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def command_of(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Return a function that calls a loaded program on the CPU with command line arguments."""

    def run(*arguments: Any) -> Done:
        monkeypatch.setattr(sys, "argv", [str(module.__file__), "--cpu", *map(str, arguments)])
        capsys.readouterr()
        try:
            code = module.main()
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
