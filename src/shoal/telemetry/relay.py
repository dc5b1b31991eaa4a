"""Metrics of processes that nobody scrapes: engines tell their worker, workers their coordinators, who show them all.

A coordinator shows them under the labels they came with and the worker's, until the worker's registration ends.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shoal.errors import InvalidRequest
from shoal.messages import MetricFamily, MetricsReport, Sample
from shoal.types import WorkerId

MAX_FAMILIES: Final = 64  # of one source
MAX_SAMPLES: Final = 4096  # of one family
MAX_SOURCES: Final = 256  # of one worker
MAX_VALUE: Final = 256  # characters of a label
#: What workers measure has names of its own: none can stand beside a metric of the coordinator's.
_NAME = re.compile(r"shoal_(batch|engine|kv_cache|step)[a-z0-9_]{1,100}")
_LABEL = re.compile(r"[a-z_]{1,40}")
_KINDS: Final = ("counter", "gauge", "histogram")
_CREATED: Final = "_created"  # a sample of every counter that nobody graphs


def snapshot(registry: CollectorRegistry) -> dict[str, MetricFamily]:
    """All families of a registry, by name."""
    return {family.name: family for family in map(_to_message, registry.collect()) if family is not None}


class Changes:
    """What of a registry has changed since it was last asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._told: dict[str, MetricFamily] = {}

    def take(self) -> tuple[MetricFamily, ...]:
        now = snapshot(self._registry)
        changed = tuple(family for name, family in now.items() if self._told.get(name) != family)
        self._told = now
        return changed


class Relay:
    """The latest of every source, for whoever comes later."""

    def __init__(self) -> None:
        self._families: dict[str, dict[str, MetricFamily]] = {}

    def take_in(self, report: MetricsReport) -> None:
        """Raises :class:`InvalidRequest` beyond the bounds; then nothing has changed."""
        check(report)
        if report.source not in self._families and len(self._families) >= MAX_SOURCES:
            raise InvalidRequest(f"more than {MAX_SOURCES} sources of metrics", param="source")
        known = {**self._families.get(report.source, {}), **{family.name: family for family in report.families}}
        if len(known) > MAX_FAMILIES:
            raise InvalidRequest(f"more than {MAX_FAMILIES} metrics of one source", param="families")
        self._families[report.source] = known

    def keep(self, sources: Container[str]) -> None:
        """Forget what others than these have told."""
        self._families = {source: told for source, told in self._families.items() if source in sources}

    def reports(self) -> list[MetricsReport]:
        return [MetricsReport(source, tuple(families.values())) for source, families in self._families.items()]


class FleetMetrics(Collector):
    """What the workers measure, as metrics of the coordinator."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, Relay] = {}

    def take_in(self, worker: WorkerId, report: MetricsReport) -> None:
        """Raises :class:`InvalidRequest`."""
        self._workers.setdefault(worker, Relay()).take_in(report)

    def keep(self, worker: WorkerId, sources: Container[str]) -> None:
        """Forget what other parts of the worker than these have told: they are there no more."""
        if (relay := self._workers.get(worker)) is not None:
            relay.keep(sources)

    def forget(self, worker: WorkerId) -> None:
        self._workers.pop(worker, None)

    def collect(self) -> Iterable[Metric]:
        metrics: dict[str, Metric] = {}
        for worker, relay in self._workers.items():
            for report in relay.reports():
                for family in report.families:
                    metric = metrics.setdefault(family.name, Metric(family.name, family.help, family.kind))
                    for sample in family.samples:
                        metric.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)
        return metrics.values()

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first report; without this the registry would collect to find out."""
        return ()


def check(report: MetricsReport) -> None:
    """What a neighbour tells goes into a text format: names that break it are refused. Raises InvalidRequest."""
    for family in report.families:
        if not _NAME.fullmatch(family.name) or len(family.samples) > MAX_SAMPLES:
            raise InvalidRequest(f"a worker has no metric {family.name[:100]!r} of {len(family.samples)} samples")
        for sample in family.samples:
            if not sample.name.startswith(family.name) or not _NAME.fullmatch(sample.name):
                raise InvalidRequest(f"metric {family.name} cannot have a sample of another name")
            if not all(_LABEL.fullmatch(label) and len(value) <= MAX_VALUE for label, value in sample.labels.items()):
                raise InvalidRequest(f"metric {family.name} has a label that Prometheus does not know")


def _to_message(metric: Metric) -> MetricFamily | None:
    if metric.type not in _KINDS:
        return None
    samples = tuple(_samples(metric))
    return MetricFamily(metric.name, metric.documentation, metric.type, samples)  # type: ignore[arg-type]


def _samples(metric: Metric) -> Iterator[Sample]:
    for sample in metric.samples:
        if not sample.name.endswith(_CREATED):
            yield Sample(sample.name, sample.labels, sample.value)
