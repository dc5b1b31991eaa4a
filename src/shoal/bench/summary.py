"""Records to figures. Plain functions of the records: nothing here measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from shoal.bench.record import Record, Run

QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)


class Quantiles(msgspec.Struct, frozen=True):
    """In seconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    ok: int
    outcomes: dict[str, int]
    duration: float  # seconds
    requests_per_second: float  # that were answered well
    tokens_per_second: float  # generated
    latency: Quantiles | None
    first_token: Quantiles | None
    token_gap: Quantiles | None


def summarise(run: Run) -> Summary:
    good = [record for record in run.records if record.ok]
    duration = max(run.duration, 1e-9)
    return Summary(
        requests=len(run.records),
        ok=len(good),
        outcomes=dict(Counter(record.outcome for record in run.records)),
        duration=run.duration,
        requests_per_second=len(good) / duration,
        tokens_per_second=sum(record.tokens for record in good) / duration,
        latency=_quantiles([record.latency for record in good]),
        first_token=_quantiles([record.first - record.due for record in good if record.first is not None]),
        token_gap=_quantiles([gap for record in good for gap in record.gaps]),
    )


def rate_over_time(records: Sequence[Record], duration: float, bins: int = 60) -> list[tuple[float, float]]:
    """(seconds since the beginning, good answers a second) for each part of the run."""
    if not duration > 0:
        return []
    width = duration / bins
    counts = Counter(min(bins - 1, int(record.ended / width)) for record in records if record.ok)
    return [((index + 0.5) * width, counts[index] / width) for index in range(bins)]


def _quantiles(values: Sequence[float]) -> Quantiles | None:
    if not values:
        return None
    array = np.array(values)
    p50, p90, p95, p99 = (float(value) for value in np.quantile(array, QUANTILES))
    return Quantiles(float(array.mean()), p50, p90, p95, p99, float(array.max()))
