"""Metrics of a training rank for Prometheus."""

from .metrics import METRICS, Metric, Metrics
from .server import MetricsServer, serve_metrics

__all__ = ["METRICS", "Metric", "Metrics", "MetricsServer", "serve_metrics"]
