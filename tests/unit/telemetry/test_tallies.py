"""Plain numbers show as the library's own metrics would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from shoal.telemetry.tallies import Count, Distribution

BOUNDS = (0.001, 0.5, 1, 300)


class Shown(Collector):
    def __init__(self, *tallies: Count | Distribution) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        return (tally.collect() for tally in self._tallies)


def text(*tallies: Count | Distribution) -> bytes:
    registry = CollectorRegistry()
    registry.register(Shown(*tallies))
    return generate_latest(registry)


def theirs(registry: CollectorRegistry) -> bytes:
    lines = generate_latest(registry).splitlines(keepends=True)
    return b"".join(line for line in lines if b"_created" not in line)  # when a series began, which nobody graphs


@given(st.lists(st.tuples(st.sampled_from(["fish", "crab"]), st.sampled_from([*BOUNDS, 0, 0.7, 1e6])), max_size=20))
def test_a_distribution_shows_as_a_histogram_of_the_library(observed: list[tuple[str, float]]) -> None:
    registry = CollectorRegistry()
    other = Histogram("seconds", "How long.", ("model",), buckets=BOUNDS, registry=registry)
    own = Distribution("seconds", "How long.", BOUNDS)
    for model, value in observed:
        own.observe(model, value)
        other.labels(model).observe(value)
    assert text(own) == theirs(registry)


def test_counts_show_as_counters_and_gauges_of_the_library() -> None:
    registry = CollectorRegistry()
    counter = Counter("requests", "Answered.", ("model", "outcome"), registry=registry)
    gauge = Gauge("waiting", "Now.", ("model",), registry=registry)
    count, level = (
        Count("requests", "Answered.", ("model", "outcome")),
        Count("waiting", "Now.", ("model",), gauge=True),
    )
    for model, outcome, amount in (("fish", "ok", 1), ("crab", "ok", 2), ("fish", "ok", 3), ("fish", "late", 0)):
        counter.labels(model, outcome).inc(amount)
        count.add((model, outcome), amount)
    for value in (7, 3):
        gauge.labels("fish").set(value)
        level.set(("fish",), value)
    assert text(count, level) == theirs(registry)


@pytest.mark.parametrize("tally", [Count("n", "text", ("model", "kind")), Distribution("n", "text", BOUNDS)])
def test_what_is_dropped_leaves_nothing_and_begins_anew(tally: Count | Distribution) -> None:
    def see(model: str) -> None:
        if isinstance(tally, Count):
            tally.add((model, "a"))
        else:
            tally.observe(model, 0.1)

    see("fish")
    alone = text(tally)
    see("crab")
    see("crab")
    both = text(tally)
    tally.drop({"crab"})
    assert text(tally) == alone
    see("crab")
    assert alone != text(tally) != both
