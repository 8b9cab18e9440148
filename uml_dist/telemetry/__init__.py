"""Metrics of a training rank for Prometheus, and the spans of time that feed them."""

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
