"""What is counted of answers whose clients may come back for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PREFIX: Final = "shoal_kept_answers"


class KeptMetrics(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self.size: Callable[[], tuple[int, int]] = lambda: (0, 0)  # how many are kept, and their bytes
        self._taken_up: Counter[str] = Counter()
        self._abandoned = 0
        self._dropped = 0
        registry.register(self)

    def taken_up(self, by: str) -> None:
        """``by``: ``event_id``, ``idempotency_key``, or ``client`` for one that speaks the native protocol."""
        self._taken_up[by] += 1

    def abandoned(self) -> None:
        self._abandoned += 1

    def dropped(self) -> None:
        self._dropped += 1

    def collect(self) -> Iterator[Metric]:
        count, size = self.size()
        yield GaugeMetricFamily(_PREFIX, "Answers whose clients may come back, running and finished.", value=count)
        yield GaugeMetricFamily(f"{_PREFIX}_bytes", "Room that they take.", value=size)
        taken_up = CounterMetricFamily(
            f"{_PREFIX}_taken_up", "Answers that a client came back for, by what it named them with.", labels=("by",)
        )
        for by, times in self._taken_up.items():
            taken_up.add_metric((by,), times)
        yield taken_up
        yield CounterMetricFamily(
            f"{_PREFIX}_abandoned", "Answers cancelled because nobody read them any more.", value=self._abandoned
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_dropped", "Answers that were too large to be kept beside the others.", value=self._dropped
        )
