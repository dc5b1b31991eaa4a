from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from shoal.errors import EngineFailed, InvalidRequest
from shoal.telemetry import tracing
from shoal.telemetry.tracing import NOTHING, SpanKind, record, span

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Tracing, for one test: the SDK's provider cannot be taken back once it is set for a process."""
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_recorded", True)
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("shoal"))
    yield exporter
    provider.shutdown()


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (made,) = exporter.get_finished_spans()
    return made


def test_without_an_sdk_nothing_is_recorded_and_the_parent_is_passed_on() -> None:
    with span("x", PARENT) as made:
        made.set("a", 1)
        made.fail(EngineFailed())
    assert made.trace == PARENT
    assert span("x") is NOTHING
    record("x", PARENT, 1.0, 2.0, now=3.0)


def test_a_span_is_a_child_of_its_parent_and_the_parent_of_what_it_causes(exported: InMemorySpanExporter) -> None:
    with span("outer", PARENT, kind=SpanKind.SERVER, attributes={"shoal.model": "fish"}) as outer:
        assert re.fullmatch(r"00-4bf92f3577b34da6a3ce929d0e0e4736-[0-9a-f]{16}-01", outer.trace)
        span("inner", outer.trace).end()
    inner, made = exported.get_finished_spans()
    assert made.parent is not None
    assert inner.parent is not None
    assert made.context is not None
    assert (made.parent.trace_id, made.parent.span_id) == (TRACE, 0x00F067AA0BA902B7)
    assert (inner.parent.trace_id, inner.parent.span_id) == (TRACE, made.context.span_id)
    assert made.attributes == {"shoal.model": "fish"}


@pytest.mark.parametrize("parent", ["", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"])
def test_without_a_valid_parent_a_trace_begins_here(exported: InMemorySpanExporter, parent: str) -> None:
    span("x", parent).end()
    assert only(exported).parent is None


def test_of_a_trace_that_is_not_recorded_the_first_span_alone_costs_anything(
    exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("shoal"))
    with span("first") as first:
        monkeypatch.setattr(tracing, "_tracer", None)  # nobody asks it again
        with span("second", first.trace) as second:
            record("third", second.trace, 1.0, 2.0, now=3.0)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[02]", second.trace)


def test_whoever_did_not_sample_a_trace_is_obeyed(exported: InMemorySpanExporter) -> None:
    with span("x", PARENT[:-2] + "00") as made:
        assert made.trace.endswith("-00")
    assert not exported.get_finished_spans()


def test_an_error_is_the_spans_own_unless_the_client_made_it(exported: InMemorySpanExporter) -> None:
    for error in (EngineFailed("it broke"), InvalidRequest("no such field")):
        with pytest.raises(type(error)), span("x"):
            raise error
    ours, theirs = exported.get_finished_spans()
    assert (ours.status.status_code, ours.status.description) == (trace.StatusCode.ERROR, "it broke")
    assert theirs.status.status_code is trace.StatusCode.UNSET
    assert [made.attributes and made.attributes["error.type"] for made in (ours, theirs)] == [
        "engine_failed",
        "invalid_request",
    ]


def test_a_generator_that_is_closed_early_has_not_failed(exported: InMemorySpanExporter) -> None:
    def numbers() -> Iterator[int]:
        with span("x"):
            yield 1

    for _ in numbers():
        break
    assert only(exported).status.status_code is trace.StatusCode.UNSET


def test_what_is_over_is_recorded_with_its_own_times_and_links(exported: InMemorySpanExporter) -> None:
    record("queue", PARENT, 10.0, 12.5, now=20.0, links=[PARENT], attributes={"rows": 3})
    made = only(exported)
    assert made.start_time is not None
    assert made.end_time is not None
    assert made.end_time - made.start_time == pytest.approx(2.5e9, abs=1e6)
    assert time.time_ns() - made.end_time == pytest.approx(7.5e9, abs=1e9)
    assert made.links[0].context.trace_id == TRACE
