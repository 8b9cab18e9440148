"""Metrics of a training rank for Prometheus, and the spans of time that feed them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distributions import bin_opinions
    from .metrics import Metrics
    from .server import MetricsServer, serve_metrics
    from .spans import Spans, recording, span, time_calls
    from .table import METRICS, Metric

__all__ = [
    "METRICS",
    "Metric",
    "Metrics",
    "MetricsServer",
    "Spans",
    "bin_opinions",
    "recording",
    "serve_metrics",
    "span",
    "time_calls",
]

_MODULES = {
    "METRICS": "table",
    "Metric": "table",
    "Metrics": "metrics",
    "MetricsServer": "server",
    "Spans": "spans",
    "bin_opinions": "distributions",
    "recording": "spans",
    "serve_metrics": "server",
    "span": "spans",
    "time_calls": "spans",
}


def __getattr__(name: str) -> Any:
    """Import what people ask for by name when they do: spans bring torch, which the live page does not need."""
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
