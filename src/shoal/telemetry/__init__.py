"""What Shoal tells of itself: metrics for Prometheus and structured logs."""

from shoal.telemetry.logs import configure_logging
from shoal.telemetry.metrics import CoordinatorMetrics

__all__ = ["CoordinatorMetrics", "configure_logging"]
