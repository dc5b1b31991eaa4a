"""What an engine's process measures: its batches, its steps, its KV memory. Told to the coordinator by ``relay``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shoal.types import ModelId

_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_WAIT: Final = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_RUN: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
_STEP_TOKENS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class EngineMetrics:
    """Of one model, or one shard of it. Durations are in seconds."""

    def __init__(self, model: ModelId, registry: CollectorRegistry, shard: int | None = None) -> None:
        self.registry = registry
        names: tuple[str, ...] = ("model", "version")
        self._labels: tuple[str, ...] = (model.name, model.version)
        if shard is not None:
            names, self._labels = (*names, "shard"), (*self._labels, str(shard))
        to: dict[str, Any] = {"namespace": "shoal", "registry": registry, "labelnames": names}
        self._batches = Counter(
            "batches",
            "Batches run, by why they were released.",
            (*names, "reason"),
            namespace="shoal",
            registry=registry,
        )
        self._rows = Histogram("batch_rows", "Rows of a batch.", buckets=_ROWS, **to).labels(*self._labels)
        self._requests = Histogram("batch_requests", "Requests in a batch.", buckets=_ROWS, **to).labels(*self._labels)
        self._waited = Histogram(
            "batch_queue_seconds", "From the arrival of a batch's first request to its run.", buckets=_WAIT, **to
        ).labels(*self._labels)
        self._ran = Histogram("batch_run_seconds", "Of one run of a batch.", buckets=_RUN, **to).labels(*self._labels)
        self._steps = Histogram("engine_step_seconds", "Of one step of a language engine.", buckets=_RUN, **to).labels(
            *self._labels
        )
        self._step_rows = Histogram("engine_step_rows", "Sequences in a step.", buckets=_ROWS, **to).labels(
            *self._labels
        )
        self._step_tokens = Histogram("engine_step_tokens", "Tokens in a step.", buckets=_STEP_TOKENS, **to).labels(
            *self._labels
        )
        self._waiting = Gauge("engine_waiting_requests", "Requests that no step has begun.", **to).labels(*self._labels)
        self._preempted = Counter(
            "engine_preemptions",
            "Sequences that were parked: for one of a higher class, to take turns, or as KV memory ran out.",
            (*names, "reason"),
            namespace="shoal",
            registry=registry,
        )
        self._parked = Gauge("engine_parked_requests", "Requests that wait in mid-answer.", **to).labels(*self._labels)
        self._recomputed = Counter(
            "engine_recomputed_tokens", "Tokens computed again, since their KV was given up.", **to
        ).labels(*self._labels)
        self._withdrawn = Counter(
            "engine_cancelled_requests", "Requests that were given up before they had ended.", **to
        ).labels(*self._labels)
        self._wasted = Counter(
            "engine_wasted_rows", "Rows computed for requests that had ended when the step did.", **to
        ).labels(*self._labels)
        self._kv = Gauge("kv_cache_usage_ratio", "Share of the KV blocks in use.", **to).labels(*self._labels)

    def batch_released(self, model: str, reason: str, rows: int, requests: int, waited: float, ran: float) -> None:
        """A batch has run, whose first request waited so long."""
        self._batches.labels(*self._labels, reason).inc()
        self._rows.observe(rows)
        self._requests.observe(requests)
        self._waited.observe(waited)
        self._ran.observe(ran)

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        self._steps.observe(seconds)
        self._step_rows.observe(rows)
        self._step_tokens.observe(tokens)

    def preempted(self, reasons: Mapping[str, int], recomputed: int, parked: int) -> None:
        for reason, count in reasons.items():
            self._preempted.labels(*self._labels, reason).inc(count)
        self._recomputed.inc(recomputed)
        self._parked.set(parked)

    def withdrawn(self) -> None:
        self._withdrawn.inc()

    def wasted(self, rows: int) -> None:
        self._wasted.inc(rows)

    def loaded(self, waiting: int, kv_used: float) -> None:
        self._waiting.set(waiting)
        self._kv.set(kv_used)
