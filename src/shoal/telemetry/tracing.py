"""Spans of a request, on OpenTelemetry's API: what it was doing, when, in which process, and what caused it.

Between processes and through messages travels W3C's ``traceparent``. Without an SDK, which :mod:`shoal.telemetry.otlp`
or ``opentelemetry-instrument`` sets up, nothing is recorded, and what a client sent as its ``traceparent`` is passed on
as it came.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shoal.errors import Cancelled, ShoalError

__all__ = ["NOTHING", "Span", "SpanKind", "Value", "look_for_recorder", "record", "span"]

Value = str | int | float | bool | Sequence[str]

_HEADER = "traceparent"
_NOT_SAMPLED = frozenset("02468aceACE")  # its last digit: the lowest of its flags says whether it is recorded
_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("shoal")
_recorded = False


class Span:
    """A span that goes on, or the place of one that nobody records. ``trace`` is for whatever this one causes.

    Either a context manager, and an error that leaves the block is the span's; or whoever has it ends it.
    """

    __slots__ = ("_span", "is_recorded", "trace")

    def __init__(self, span: trace.Span | None, trace: str) -> None:
        self._span = span
        self.is_recorded = span is not None
        self.trace = trace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is None:
            return
        if error is not None and not isinstance(error, GeneratorExit):
            self.fail(error if isinstance(error, Exception) else Cancelled())
        self._span.end()

    def set(self, name: str, value: Value) -> None:
        if self._span is not None:
            self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        if self._span is not None:
            self._span.update_name(name)

    def fail(self, error: BaseException) -> None:
        """Say how it ended; what the client caused is no error of the server's."""
        if self._span is None:
            return
        code = error.code if isinstance(error, ShoalError) else type(error).__name__
        self._span.set_attribute("error.type", code)
        if not isinstance(error, ShoalError) or error.fault != "client":
            self._span.set_status(Status(StatusCode.ERROR, str(error)))

    def end(self, at: int | None = None) -> None:
        """``at``: nanoseconds since 1970, if not now."""
        if self._span is not None:
            self._span.end(at)


NOTHING = Span(None, "")


def look_for_recorder() -> None:
    """See whether anybody records spans. Once, when a process starts: asking the library each time costs 1 µs."""
    global _recorded
    _recorded = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def span(
    name: str,
    parent: str = "",
    *,
    of: str = "",
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[str] = (),
    attributes: Mapping[str, Value] | None = None,
    at: int | None = None,
) -> Span:
    """Begin a span. ``of``: what stands in its name behind ``name``. ``parent`` and ``links`` are traceparents; ``at``
    is as in :meth:`Span.end`."""
    # Whoever began a trace has decided whether it is recorded; of one that is not, only the first span costs anything.
    if not _recorded or parent[-1:] in _NOT_SAMPLED:
        return Span(None, parent) if parent else NOTHING
    begun = _tracer.start_span(
        f"{name} {of}" if of else name,
        _context(parent),
        kind=kind,
        links=[Link(trace.get_current_span(_context(link)).get_span_context()) for link in links],
        attributes=attributes,
        start_time=at,
    )
    return Span(begun if begun.is_recording() else None, _traceparent(begun))


def record(
    name: str,
    parent: str,
    began: float,
    ended: float,
    *,
    now: float,
    links: Sequence[str] = (),
    attributes: Mapping[str, Value] | None = None,
) -> None:
    """A span that is over. The times are in seconds on the clock that says ``now``."""
    if not parent or not _recorded or parent[-1] in _NOT_SAMPLED:
        return
    wall = time.time_ns()
    start, end = (wall - round((now - moment) * 1e9) for moment in (began, ended))
    span(name, parent, links=links, attributes=attributes, at=start).end(end)


def _context(parent: str) -> Context:
    # Never the ambient one: a process serves many requests at a time, and says of each what caused it.
    return _propagator.extract({_HEADER: parent} if parent else {}, Context())


def _traceparent(begun: trace.Span) -> str:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(begun, Context()))
    return carrier.get(_HEADER, "")
