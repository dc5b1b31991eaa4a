"""Where spans go: over HTTP to whatever speaks OTLP, such as an OpenTelemetry collector, Jaeger or Tempo."""

from __future__ import annotations

import logging

from opentelemetry import trace

from shoal.config import TelemetryConfig
from shoal.errors import ConfigError
from shoal.telemetry.tracing import look_for_recorder

logger = logging.getLogger(__name__)

FLUSH_TIMEOUT = 3.0  # seconds for the last spans, when a process ends


def configure_tracing(config: TelemetryConfig, *, service: str) -> None:
    """Record the spans of this process and send them in the background; nothing without an endpoint.

    Raises :class:`ConfigError` where the SDK is not installed.
    """
    if config.otlp_endpoint:
        _send_to(config, service)
    look_for_recorder()


def _send_to(config: TelemetryConfig, service: str) -> None:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise ConfigError(
            "tracing needs OpenTelemetry's SDK: install Shoal with the extra 'otel'", param="telemetry.otlp_endpoint"
        ) from error
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(config.sample)),
        resource=Resource.create({"service.name": service, "service.namespace": "shoal"}),
        shutdown_on_exit=False,
    )
    endpoint = config.otlp_endpoint.rstrip("/") + "/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=FLUSH_TIMEOUT)))
    trace.set_tracer_provider(provider)
    logger.info("spans go to %s", endpoint, extra={"action": "tracing_started"})


def close_tracing() -> None:
    """Send what is left, within :data:`FLUSH_TIMEOUT`."""
    provider = trace.get_tracer_provider()
    flush = getattr(provider, "force_flush", None)
    if flush is not None:
        flush(round(FLUSH_TIMEOUT * 1000))
