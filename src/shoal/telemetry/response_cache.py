"""What the response cache counts. Plain numbers, made into metrics when they are asked for: a request that misses pays
for one addition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PREFIX = "shoal_response_cache_"


class TierSize(NamedTuple):
    tier: str  # memory, disk
    entries: int = 0
    bytes: int = 0
    evictions: int = 0


class ResponseCacheMetrics(Collector):
    """``model`` is the own name of a model that is known: metrics have a series for each."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sizes: Callable[[], Iterable[TierSize]] = tuple
        self.dropped_writes: Callable[[], int] = int
        self._hits: Counter[tuple[str, str]] = Counter()  # by model and tier
        self._misses: Counter[str] = Counter()
        self._coalesced: Counter[str] = Counter()
        registry.register(self)

    def hit(self, model: str, tier: str) -> None:
        self._hits[model, tier] += 1

    def missed(self, model: str) -> None:
        self._misses[model] += 1

    def coalesced(self, model: str) -> None:
        self._coalesced[model] += 1

    def collect(self) -> Iterator[Metric]:
        hits = CounterMetricFamily(_PREFIX + "hits", "Answers that were kept.", labels=("model", "tier"))
        for (model, tier), count in self._hits.items():
            hits.add_metric((model, tier), count)
        yield hits
        yield _by_model("misses", "Answers that had to be computed.", self._misses)
        yield _by_model("coalesced", "Requests that joined the run of an identical one.", self._coalesced)
        yield CounterMetricFamily(
            _PREFIX + "dropped_writes", "Answers that the disk could not take.", value=self.dropped_writes()
        )
        yield from self._of_tiers()

    def _of_tiers(self) -> Iterator[Metric]:
        entries = GaugeMetricFamily(_PREFIX + "entries", "Answers kept.", labels=("tier",))
        size = GaugeMetricFamily(_PREFIX + "bytes", "Room that they take.", labels=("tier",))
        evictions = CounterMetricFamily(_PREFIX + "evictions", "Answers that had to make room.", labels=("tier",))
        for tier in self.sizes():
            entries.add_metric((tier.tier,), tier.entries)
            size.add_metric((tier.tier,), tier.bytes)
            evictions.add_metric((tier.tier,), tier.evictions)
        yield from (entries, size, evictions)


def _by_model(name: str, text: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=("model",))
    for model, count in counts.items():
        family.add_metric((model,), count)
    return family
