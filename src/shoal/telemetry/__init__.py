"""What Shoal tells of itself: metrics for Prometheus, spans for OpenTelemetry, structured logs."""

from shoal.telemetry.kept_answers import KeptMetrics
from shoal.telemetry.logs import configure_logging
from shoal.telemetry.metrics import CoordinatorMetrics
from shoal.telemetry.otlp import close_tracing, configure_tracing
from shoal.telemetry.response_cache import ResponseCacheMetrics, TierSize

__all__ = [
    "CoordinatorMetrics",
    "KeptMetrics",
    "ResponseCacheMetrics",
    "TierSize",
    "close_tracing",
    "configure_logging",
    "configure_tracing",
]
