"""Distributed training of uncertainty-aware joint classification and segmentation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run.load import Run, load_run

__all__ = ["Run", "load_run"]


def __getattr__(name: str) -> Any:
    """Import what people ask for by name when they do: it brings torch."""
    if name in __all__:
        from .run import load as run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
