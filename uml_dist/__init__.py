"""Distributed training of uncertainty-aware joint classification and segmentation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference import PredictSettings, predict
    from .run.load import Run, load_run

__all__ = ["PredictSettings", "Run", "load_run", "predict"]

_MODULES = {"PredictSettings": "inference", "Run": "run.load", "load_run": "run.load", "predict": "inference"}


def __getattr__(name: str) -> Any:
    """Import what people ask for by name when they do: it brings torch."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
