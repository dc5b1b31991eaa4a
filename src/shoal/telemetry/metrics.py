"""Prometheus metrics: one class a process, over a registry that is handed in.

Labels are bounded: outcomes and reasons come from the code, and a model that nobody knows is ``unknown``.
An update finds its labelled child in a dictionary, which costs a third of asking the library for it each time.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from shoal.types import Usage, WorkerState

UNKNOWN: Final = "unknown"
OTHER: Final = "other"

# Seconds. From an echo of a fraction of a millisecond to a long generation.
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
_STALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_QUEUE_BUCKETS = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

M = TypeVar("M", bound=MetricWrapperBase)


class _Labelled(Generic[M]):
    """A metric whose labelled children are looked up once."""

    def __init__(self, metric: M) -> None:
        self._metric = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *labels: str) -> M:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child

    def drop(self, models: Container[str]) -> None:
        """For a metric whose first label is a model."""
        for labels in [labels for labels in self._children if labels[0] in models]:
            del self._children[labels]
            self._metric.remove(*labels)


class CoordinatorMetrics:
    """``is_known`` says whether a model's name may become a label; so may those of ``tenants``. Durations are in
    seconds."""

    def __init__(
        self, registry: CollectorRegistry, *, is_known: Callable[[str], bool], tenants: Container[str] = ()
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # samples that nobody graphs
        self._registry = registry
        self._is_known = is_known
        self._tenants = tenants
        to: dict[str, Any] = {"namespace": "shoal", "registry": registry}
        self._in_flight = Gauge("in_flight_requests", "Requests admitted and not answered yet.", **to)
        self._requests = _Labelled(Counter("requests_total", "Requests answered.", ("model", "outcome"), **to))
        self._duration = _Labelled(
            Histogram(
                "request_duration_seconds",
                "From request to the end of its answer.",
                ("model",),
                buckets=_REQUEST_BUCKETS,
                **to,
            )
        )
        self._first_token = _Labelled(
            Histogram(
                "time_to_first_token_seconds",
                "From request to the first generated text.",
                ("model",),
                buckets=_FIRST_TOKEN_BUCKETS,
                **to,
            )
        )
        self._token_gap = _Labelled(
            Histogram(
                "inter_token_latency_seconds",
                "Between the parts of a streamed answer.",
                ("model",),
                buckets=_TOKEN_BUCKETS,
                **to,
            )
        )
        self._queue_time = _Labelled(
            Histogram(
                "queue_time_seconds",
                "From request to its dispatch to a worker.",
                ("model",),
                buckets=_QUEUE_BUCKETS,
                **to,
            )
        )
        self._tokens = _Labelled(
            Counter(
                "tokens_total", "Tokens by kind: prompt, cached (a part of prompt), generated.", ("model", "kind"), **to
            )
        )
        self._workers = Gauge("workers", "Registered workers by state.", ("state",), **to)
        self._decisions = _Labelled(
            Counter("routing_decisions_total", "Requests sent to a worker.", ("model", "policy", "reason"), **to)
        )
        self._hedged = _Labelled(
            Counter("hedged_total", "Requests that two workers got, by who answered.", ("model", "winner"), **to)
        )
        self._retries = _Labelled(Counter("retries_total", "Requests tried again, by error.", ("reason",), **to))
        self._stall = _Labelled(
            Histogram(
                "failover_stall_seconds",
                "From the loss of a worker in the middle of an answer to the next part of it.",
                ("model",),
                buckets=_STALL_BUCKETS,
                **to,
            )
        )
        self._rejected = _Labelled(
            Counter("rejected_total", "Requests not let in, by the bound that was reached.", ("reason", "tenant"), **to)
        )
        self._waiting = _Labelled(Gauge("waiting_requests", "Requests that wait for a worker.", ("model",), **to))
        self._named: set[str] = set()  # the models that are labels
        self._of_models: tuple[_Labelled[Any], ...] = (
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

    def began(self) -> None:
        """Each request that was let in; :meth:`finished` is its end."""
        self._in_flight.inc()

    def finished(self, model: str, outcome: str, duration: float) -> None:
        """``outcome``: ``ok``, or the code of the error."""
        self._in_flight.dec()
        model = self._model(model)
        self._requests(model, outcome).inc()
        self._duration(model).observe(duration)

    def rejected(self, reason: str, tenant: str) -> None:
        """A tenant that is not one of the configured is counted with all the others of its kind."""
        self._rejected(reason, tenant if not tenant or tenant in self._tenants else OTHER).inc()

    def waiting(self, model: str, requests: int) -> None:
        self._waiting(self._model(model)).set(requests)

    def routed(self, model: str, policy: str, reason: str, waited: float) -> None:
        model = self._model(model)
        self._decisions(model, policy, reason).inc()
        self._queue_time(model).observe(waited)

    def retried(self, reason: str) -> None:
        self._retries(reason).inc()

    def hedged(self, model: str, winner: str) -> None:
        """Two workers had the same request. ``winner``: which of them answered, the first or the second."""
        self._hedged(self._model(model), winner).inc()

    def resumed(self, model: str, stall: float) -> None:
        """An answer that had begun goes on with another worker."""
        self._stall(self._model(model)).observe(stall)

    def first_token(self, model: str, duration: float) -> None:
        self._first_token(self._model(model)).observe(duration)

    def token_gap(self, model: str, duration: float) -> None:
        self._token_gap(self._model(model)).observe(duration)

    def used(self, model: str, usage: Usage) -> None:
        model = self._model(model)
        self._tokens(model, "prompt").inc(usage.prompt_tokens)
        self._tokens(model, "cached").inc(usage.cached_tokens)
        self._tokens(model, "generated").inc(usage.completion_tokens)

    def workers(self, count: Mapping[WorkerState, int]) -> None:
        """How many there are in each state; a state that is not named has none."""
        for state in WorkerState:
            self._workers.labels(state).set(count.get(state, 0))

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
