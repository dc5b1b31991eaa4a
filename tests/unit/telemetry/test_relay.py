from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shoal.errors import InvalidRequest
from shoal.messages import MetricFamily, MetricsReport, Request, Sample
from shoal.rpc import deserialize, serialize
from shoal.telemetry.engine_metrics import EngineMetrics
from shoal.telemetry.relay import MAX_FAMILIES, MAX_SOURCES, Changes, FleetMetrics, Relay
from shoal.types import ModelId, ModelName, WorkerId

FISH = ModelId(ModelName("fish"))
A, B = WorkerId("a"), WorkerId("b")


def measured() -> EngineMetrics:
    metrics = EngineMetrics(FISH, CollectorRegistry())
    metrics.batch_released("fish", "full", 8, 2, 0.003, 0.02)
    return metrics


def shown(fleet: FleetMetrics) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(fleet)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in families
        for sample in family.samples
        if sample.value
    }


def test_what_an_engine_measures_is_shown_under_its_worker() -> None:
    fleet = FleetMetrics()
    for worker in (A, B):
        report = MetricsReport("fish@1", Changes(measured().registry).take())
        fleet.take_in(worker, deserialize(b"".join(serialize(report)), Request))
    values = shown(fleet)
    labels = [("model", "fish"), ("reason", "full"), ("version", "1")]
    assert values[f"shoal_batches_total{[*labels, ('worker', 'a')]}"] == 1
    assert values[f"shoal_batch_rows_bucket{[('le', '8.0'), labels[0], labels[2], ('worker', 'b')]}"] == 1
    fleet.forget(A)
    assert not [name for name in shown(fleet) if "'a'" in name]


def test_shards_of_a_model_on_one_worker_have_series_of_their_own() -> None:
    fleet = FleetMetrics()
    for shard in (0, 1):
        metrics = EngineMetrics(FISH, CollectorRegistry(), shard)
        metrics.batch_released("fish", "full", 8, shard + 1, 0.003, 0.02)
        fleet.take_in(A, MetricsReport(f"fish@1#{shard}", Changes(metrics.registry).take()))
    samples = [sample for metric in fleet.collect() for sample in metric.samples]
    series = {(sample.name, *sorted(sample.labels.items())) for sample in samples}
    assert len(series) == len(samples)
    assert {sample.labels["shard"] for sample in samples} == {"0", "1"}


def test_what_a_worker_has_no_more_is_shown_no_more_and_takes_no_place() -> None:
    fleet = FleetMetrics()
    for number in range(MAX_SOURCES + 1):
        fleet.take_in(A, MetricsReport(f"fish@{number}", Changes(measured().registry).take()))
        fleet.keep(A, {"fish@1"})
    assert len(shown(fleet)) > 0
    fleet.keep(A, ())
    assert not shown(fleet)
    fleet.keep(B, ())  # who has told nothing yet


def test_only_what_has_changed_is_told_again() -> None:
    metrics = measured()
    changes = Changes(metrics.registry)
    changes.take()
    assert changes.take() == ()
    metrics.loaded(waiting=3, kv_used=0.0)
    assert [family.name for family in changes.take()] == ["shoal_engine_waiting_requests"]


def test_a_later_report_adds_to_what_was_told_before() -> None:
    relay, registry = Relay(), CollectorRegistry()
    first, second = (Counter(name, "Help.", namespace="shoal", registry=registry) for name in ("step_a", "step_b"))
    changes = Changes(registry)
    first.inc()
    relay.take_in(MetricsReport("", changes.take()))
    second.inc(3)
    relay.take_in(MetricsReport("", changes.take()))
    (report,) = relay.reports()
    assert {family.name: family.samples[0].value for family in report.families} == {
        "shoal_step_a": 1,
        "shoal_step_b": 3,
    }


@pytest.mark.parametrize(
    "family",
    [
        MetricFamily("up", "", "gauge", ()),
        MetricFamily("shoal_requests", "", "gauge", ()),
        MetricFamily("shoal_step_x\n", "", "gauge", ()),
        MetricFamily("shoal_step_x", "", "gauge", (Sample("shoal_step_y", {}, 1),)),
        MetricFamily("shoal_step_x", "", "gauge", (Sample("shoal_step_x}", {}, 1),)),
        MetricFamily("shoal_step_x", "", "gauge", (Sample("shoal_step_x", {'a"': "b"}, 1),)),
        MetricFamily("shoal_step_x", "", "gauge", (Sample("shoal_step_x", {"a": "b" * 1000}, 1),)),
        MetricFamily("shoal_step_x", "", "gauge", (Sample("shoal_step_x", {}, 1),) * 5000),
    ],
    ids=str,
)
def test_what_would_break_the_text_format_is_refused(family: MetricFamily) -> None:
    fleet = FleetMetrics()
    with pytest.raises(InvalidRequest):
        fleet.take_in(A, MetricsReport("", (family,)))
    assert shown(fleet) == {}


def test_the_numbers_of_sources_and_metrics_are_bounded() -> None:
    relay = Relay()
    many = tuple(MetricFamily(f"shoal_step_{index}", "", "gauge", ()) for index in range(MAX_FAMILIES + 1))
    with pytest.raises(InvalidRequest, match="metrics"):
        relay.take_in(MetricsReport("", many))
    for index in range(MAX_SOURCES):
        relay.take_in(MetricsReport(str(index), ()))
    with pytest.raises(InvalidRequest, match="sources"):
        relay.take_in(MetricsReport("one more", ()))
