"""What a rank tells Prometheus while it trains."""

from uml_dist.telemetry.metrics import METRICS, Metric, Metrics
from uml_dist.telemetry.server import MetricsServer, serve_metrics

__all__ = ["METRICS", "Metric", "Metrics", "MetricsServer", "serve_metrics"]
