"""Prometheus metrics: one class a process, over a registry that is handed in.

Labels are bounded: outcomes and reasons come from the code, and a model that nobody knows is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from shoal.telemetry.tallies import Count, Distribution
from shoal.types import Usage, WorkerState

UNKNOWN: Final = "unknown"
OTHER: Final = "other"

# Seconds. From an echo of a fraction of a millisecond to a long generation.
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
_STALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_QUEUE_BUCKETS = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CoordinatorMetrics(Collector):
    """``is_known`` says whether a model's name may become a label; so may those of ``tenants``. Durations are in
    seconds."""

    def __init__(
        self, registry: CollectorRegistry, *, is_known: Callable[[str], bool], tenants: Container[str] = ()
    ) -> None:
        self._registry = registry
        self._is_known = is_known
        self._tenants = tenants
        self._in_flight = 0
        self._requests = Count("shoal_requests", "Requests answered.", ("model", "outcome"))
        self._duration = Distribution(
            "shoal_request_duration_seconds", "From request to the end of its answer.", _REQUEST_BUCKETS
        )
        self._first_token = Distribution(
            "shoal_time_to_first_token_seconds", "From request to the first generated text.", _FIRST_TOKEN_BUCKETS
        )
        self._token_gap = Distribution(
            "shoal_inter_token_latency_seconds", "Between the parts of a streamed answer.", _TOKEN_BUCKETS
        )
        self._queue_time = Distribution(
            "shoal_queue_time_seconds", "From request to its dispatch to a worker.", _QUEUE_BUCKETS
        )
        self._tokens = Count(
            "shoal_tokens", "Tokens by kind: prompt, cached (a part of prompt), generated.", ("model", "kind")
        )
        self._workers = Count("shoal_workers", "Registered workers by state.", ("state",), gauge=True)
        self._decisions = Count("shoal_routing_decisions", "Requests sent to a worker.", ("model", "policy", "reason"))
        self._hedged = Count("shoal_hedged", "Requests that two workers got, by who answered.", ("model", "winner"))
        self._retries = Count("shoal_retries", "Requests tried again, by error.", ("reason",))
        self._stall = Distribution(
            "shoal_failover_stall_seconds",
            "From the loss of a worker in the middle of an answer to the next part of it.",
            _STALL_BUCKETS,
        )
        self._rejected = Count(
            "shoal_rejected", "Requests not let in, by the bound that was reached.", ("reason", "tenant")
        )
        self._waiting = Count("shoal_waiting_requests", "Requests that wait for a worker.", ("model",), gauge=True)
        self._named: set[str] = set()  # the models that are labels
        self._of_models = (
            self._requests,
            self._duration,
            self._first_token,
            self._token_gap,
            self._queue_time,
            self._tokens,
            self._decisions,
            self._hedged,
            self._stall,
            self._waiting,
        )
        self.workers({})
        registry.register(self)

    def began(self) -> None:
        """Each request that was let in; :meth:`finished` is its end."""
        self._in_flight += 1

    def finished(self, model: str, outcome: str, duration: float) -> None:
        """``outcome``: ``ok``, or the code of the error."""
        self._in_flight -= 1
        model = self._model(model)
        self._requests.add((model, outcome))
        self._duration.observe(model, duration)

    def rejected(self, reason: str, tenant: str) -> None:
        """A tenant that is not one of the configured is counted with all the others of its kind."""
        self._rejected.add((reason, tenant if not tenant or tenant in self._tenants else OTHER))

    def waiting(self, model: str, requests: int) -> None:
        self._waiting.set((self._model(model),), requests)

    def routed(self, model: str, policy: str, reason: str, waited: float) -> None:
        model = self._model(model)
        self._decisions.add((model, policy, reason))
        self._queue_time.observe(model, waited)

    def retried(self, reason: str) -> None:
        self._retries.add((reason,))

    def hedged(self, model: str, winner: str) -> None:
        """Two workers had the same request. ``winner``: which of them answered, the first or the second."""
        self._hedged.add((self._model(model), winner))

    def resumed(self, model: str, stall: float) -> None:
        """An answer that had begun goes on with another worker."""
        self._stall.observe(self._model(model), stall)

    def first_token(self, model: str, duration: float) -> None:
        self._first_token.observe(self._model(model), duration)

    def token_gap(self, model: str, duration: float) -> None:
        self._token_gap.observe(self._model(model), duration)

    def used(self, model: str, usage: Usage) -> None:
        model = self._model(model)
        self._tokens.add((model, "prompt"), usage.prompt_tokens)
        self._tokens.add((model, "cached"), usage.cached_tokens)
        self._tokens.add((model, "generated"), usage.completion_tokens)

    def workers(self, count: Mapping[WorkerState, int]) -> None:
        """How many there are in each state; a state that is not named has none."""
        for state in WorkerState:
            self._workers.set((state,), count.get(state, 0))

    def collect(self) -> Iterator[Metric]:
        in_flight = Count("shoal_in_flight_requests", "Requests admitted and not answered yet.", gauge=True)
        in_flight.set((), self._in_flight)
        for tally in (in_flight, *self._of_models, self._workers, self._retries, self._rejected):
            yield tally.collect()

    def render(self) -> bytes:
        """Prometheus' text format, version 0.0.4."""
        self._drop_gone()
        return generate_latest(self._registry)

    def _model(self, name: str) -> str:
        if not self._is_known(name):
            return UNKNOWN
        if name not in self._named:
            self._drop_gone()
            self._named.add(name)
        return name

    def _drop_gone(self) -> None:
        """Models that are known no more: their series would stay for ever, as others come and go."""
        gone = {name for name in self._named if not self._is_known(name)}
        for metric in self._of_models if gone else ():
            metric.drop(gone)
        self._named -= gone
