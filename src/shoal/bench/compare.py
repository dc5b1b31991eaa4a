"""Two runs side by side, as ratios: absolute figures of different minutes do not compare."""

from __future__ import annotations

from typing import NamedTuple

from shoal.bench.summary import Quantiles, Summary


class Row(NamedTuple):
    what: str
    first: float
    second: float
    ratio: float  # second to first


def compare(first: Summary, second: Summary) -> list[Row]:
    """Every figure that both runs have."""
    rows = [
        ("requests/s", first.requests_per_second, second.requests_per_second),
        ("tokens/s", first.tokens_per_second, second.tokens_per_second),
        ("answered well", first.ok / max(first.requests, 1), second.ok / max(second.requests, 1)),
    ]
    pairs = [
        ("latency", first.latency, second.latency),
        ("first token", first.first_token, second.first_token),
        ("token gap", first.token_gap, second.token_gap),
    ]
    for name, ours, theirs in pairs:
        if isinstance(ours, Quantiles) and isinstance(theirs, Quantiles):
            rows += [
                (f"{name} {field}, ms", getattr(ours, field) * 1e3, getattr(theirs, field) * 1e3)
                for field in ("p50", "p99")
            ]
    return [Row(what, a, b, b / a) for what, a, b in rows if a > 0]
