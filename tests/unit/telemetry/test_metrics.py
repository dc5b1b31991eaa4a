from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from shoal.telemetry import CoordinatorMetrics
from shoal.types import Usage, WorkerState


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> CoordinatorMetrics:
    return CoordinatorMetrics(registry, is_known={"fish"}.__contains__, tenants={"gold"})


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"shoal_{name}", labels)


def sample_names(text: bytes) -> Iterator[str]:
    for family in text_string_to_metric_families(text.decode()):
        yield family.name


def test_a_request_is_in_flight_until_it_has_finished(metrics: CoordinatorMetrics, registry: CollectorRegistry) -> None:
    metrics.began()
    assert value(registry, "in_flight_requests") == 1
    metrics.finished("fish", "ok", 0.2)
    assert value(registry, "in_flight_requests") == 0
    assert value(registry, "requests_total", model="fish", outcome="ok") == 1
    assert value(registry, "request_duration_seconds_sum", model="fish") == 0.2


def test_a_model_that_nobody_knows_makes_no_series_of_its_own(
    metrics: CoordinatorMetrics, registry: CollectorRegistry
) -> None:
    for index in range(1000):
        metrics.began()
        metrics.finished(f"made up {index}", "model_not_found", 0.0)
    labels = {"model": "unknown", "outcome": "model_not_found"}
    assert value(registry, "requests_total", **labels) == 1000
    assert b"made up" not in metrics.render()


def test_each_seam_of_a_request_has_its_metric(metrics: CoordinatorMetrics, registry: CollectorRegistry) -> None:
    metrics.routed("fish", "least_connections", "policy", 0.01)
    metrics.retried("worker_lost")
    metrics.rejected("queue", "gold")
    metrics.rejected("queue", "")
    for number in range(100):
        metrics.rejected("queue", f"somebody {number}")
    metrics.waiting("fish", 3)
    metrics.first_token("fish", 0.1)
    metrics.token_gap("fish", 0.02)
    metrics.used("fish", Usage(10, 5, cached_tokens=4))
    expected = {"model": "fish", "policy": "least_connections", "reason": "policy"}
    assert value(registry, "routing_decisions_total", **expected) == 1
    assert value(registry, "queue_time_seconds_sum", model="fish") == 0.01
    assert value(registry, "retries_total", reason="worker_lost") == 1
    assert value(registry, "rejected_total", reason="queue", tenant="gold") == 1
    assert value(registry, "rejected_total", reason="queue", tenant="") == 1
    assert value(registry, "rejected_total", reason="queue", tenant="other") == 100
    assert value(registry, "waiting_requests", model="fish") == 3
    assert value(registry, "time_to_first_token_seconds_sum", model="fish") == 0.1
    assert value(registry, "inter_token_latency_seconds_sum", model="fish") == 0.02
    tokens = {
        kind: value(registry, "tokens_total", model="fish", kind=kind) for kind in ("prompt", "cached", "generated")
    }
    assert tokens == {"prompt": 10, "cached": 4, "generated": 5}


def test_every_state_of_workers_is_told_also_when_there_are_none(
    metrics: CoordinatorMetrics, registry: CollectorRegistry
) -> None:
    assert all(value(registry, "workers", state=state) == 0 for state in WorkerState)
    metrics.workers({WorkerState.READY: 2, WorkerState.STARTING: 1})
    metrics.workers({WorkerState.READY: 3})
    assert value(registry, "workers", state="ready") == 3
    assert value(registry, "workers", state="starting") == 0


def test_what_is_rendered_is_what_prometheus_reads(metrics: CoordinatorMetrics) -> None:
    metrics.began()
    metrics.finished("fish", "ok", 0.2)
    names = set(sample_names(metrics.render()))
    assert {"shoal_requests", "shoal_request_duration_seconds", "shoal_workers", "shoal_in_flight_requests"} <= names
    assert all(name.startswith("shoal_") for name in names)


def test_two_components_in_one_process_share_nothing() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    CoordinatorMetrics(first, is_known=bool).began()
    CoordinatorMetrics(second, is_known=bool)
    assert value(second, "in_flight_requests") == 0


def test_a_model_that_is_gone_leaves_no_series(registry: CollectorRegistry) -> None:
    known = {"fish", "crab"}
    metrics = CoordinatorMetrics(registry, is_known=known.__contains__)
    for model in ("fish", "crab"):
        metrics.finished(model, "ok", 0.1)
        metrics.routed(model, "p2c", "least_loaded", 0.1)
        metrics.first_token(model, 0.1)
        metrics.token_gap(model, 0.1)
        metrics.resumed(model, 0.1)
        metrics.hedged(model, "first")
        metrics.waiting(model, 1)
        metrics.used(model, Usage(1, 1))
    known.remove("crab")
    assert b"crab" not in metrics.render()
    assert value(registry, "requests_total", model="fish", outcome="ok") == 1
    known.add("crab")
    metrics.finished("crab", "ok", 0.1)
    assert value(registry, "requests_total", model="crab", outcome="ok") == 1


def test_models_that_come_and_go_are_dropped_though_nobody_reads_the_metrics(registry: CollectorRegistry) -> None:
    known: set[str] = set()
    metrics = CoordinatorMetrics(registry, is_known=known.__contains__)
    for number in range(50):
        known.clear()
        known.add(f"model {number}")
        metrics.finished(f"model {number}", "ok", 0.1)
    (family,) = (family for family in registry.collect() if family.name == "shoal_requests")
    assert {sample.labels["model"] for sample in family.samples} == {"model 49"}


def test_when_a_series_began_is_not_told(metrics: CoordinatorMetrics) -> None:
    metrics.finished("fish", "ok", 0.1)
    assert b"_created" not in metrics.render()
