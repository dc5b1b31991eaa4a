"""What every request counts: plain numbers, made into Prometheus' families when somebody asks for them.

The library's own take a lock for each update, for programs with threads. These belong to one event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Labels = tuple[str, ...]


class Count:
    """A counter, or with ``gauge`` what may fall too; ``name`` as Prometheus shows it, without ``_total``.

    Of several labels the first may be a model.
    """

    def __init__(self, name: str, text: str, labels: Labels = (), *, gauge: bool = False) -> None:
        self._name, self._text, self._names = name, text, labels
        self._kind = GaugeMetricFamily if gauge else CounterMetricFamily
        self._values: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    def set(self, labels: Labels, value: float) -> None:
        self._values[labels] = value

    def drop(self, models: Container[str]) -> None:
        for labels in [labels for labels in self._values if labels[0] in models]:
            del self._values[labels]

    def collect(self) -> Metric:
        family = self._kind(self._name, self._text, labels=self._names)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        return family


class Distribution:
    """A histogram for each model. ``bounds``: each is the largest value of its bucket."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._buckets = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, model: str, value: float) -> None:
        counts = self._counts.get(model)
        if counts is None:
            counts, self._sums[model] = [0] * len(self._buckets), 0.0
            self._counts[model] = counts
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[model] += value

    def drop(self, models: Container[str]) -> None:
        for model in [model for model in self._counts if model in models]:
            del self._counts[model], self._sums[model]

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=("model",))
        for model, counts in self._counts.items():
            family.add_metric((model,), self._cumulated(counts), self._sums[model])
        return family

    def _cumulated(self, counts: Sequence[int]) -> list[tuple[str, float]]:
        return list(zip(self._buckets, accumulate(counts), strict=True))
