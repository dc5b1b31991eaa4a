"""What Shoal tells of itself: metrics for Prometheus and structured logs."""

from shoal.telemetry.logs import configure_logging
from shoal.telemetry.metrics import CoordinatorMetrics, WorkerMetrics

__all__ = ["CoordinatorMetrics", "WorkerMetrics", "configure_logging"]
