"""What telemetry costs a request: `python benchmarks/telemetry.py`.

Requests through a coordinator and a worker in this process to a model that answers at once (`instant.py`): without a
recorder of spans, with one that samples a tenth of the traces, and with one that takes all. The last two give their
spans to nobody; sending them is done by a thread beside.
"""

from __future__ import annotations

import argparse
import itertools
import statistics

import uvloop
from instant import rate, served
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from shoal.config import CacheConfig, ModelConfig
from shoal.telemetry import tracing
from shoal.types import ModelKind

SHARES = {"off": None, "off again": None, "a tenth": 0.1, "all": 1.0}


def record(share: float | None) -> None:
    """Sample this share of the traces from now on. The API lets a process set a provider once, so it is not asked."""
    tracing._recorded = share is not None
    if share is not None:
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)), shutdown_on_exit=False)
        provider.add_span_processor(SpanProcessor())
        tracing._tracer = provider.get_tracer("shoal")


async def compare(kind: ModelKind, rounds: int, count: int) -> None:
    async with served({"model": ModelConfig()}, CacheConfig()) as (plane, models):
        fresh = itertools.count()
        rates: dict[str, list[float]] = {name: [] for name in SHARES}
        for round_number in range(rounds + 1):
            for name in list(SHARES) if round_number % 2 else list(reversed(SHARES)):
                record(SHARES[name])
                measured = await rate(plane, models[f"{kind} model"], fresh, count)
                if round_number:  # the first warms up
                    rates[name].append(measured)
    base = statistics.median(rates["off"])
    print(f"{kind}: {1e6 / base:.0f} µs of CPU a request without tracing")
    for name in list(SHARES)[1:]:
        ratios = [one / other for one, other in zip(rates[name], rates["off"], strict=True)]
        middle = statistics.median(ratios)
        print(f"  {name:10} {middle:.3f} of the rate ({min(ratios):.3f} to {max(ratios):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=3200)
    options = parser.parse_args()
    trace.get_tracer_provider()
    uvloop.run(compare(ModelKind.TENSOR, options.rounds, options.requests))
    uvloop.run(compare(ModelKind.GENERATE, options.rounds, options.requests // 8))


if __name__ == "__main__":
    main()
