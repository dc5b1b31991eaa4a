"""One worker is asked. What its answers say of its health and speed is noted on every way out."""

from __future__ import annotations

from types import TracebackType

from shoal.clock import now
from shoal.cluster import Member
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.observation import is_last
from shoal.errors import DeadlineExceeded, EngineFailed, ProtocolError, ShoalError, WorkerLost
from shoal.load_balancer import Health, Outcome
from shoal.messages import Answer, Chunk, Generate, Infer, Inferred
from shoal.router import RoutingDecision
from shoal.rpc import Connection
from shoal.telemetry.genai import caused
from shoal.telemetry.tracing import NOTHING, Span, SpanKind, span
from shoal.types import ModelPart


class Asking:
    """Around a request to a worker: it has one of its places for so long. A class, for it is on every request's way,
    and a generator that does the same takes three times as long.

    An answer that breaks the protocol is :class:`EngineFailed`: another worker may have a better one.
    """

    __slots__ = (
        "_attempt",
        "_began",
        "_decision",
        "_fleet",
        "_health",
        "_heard",
        "_member",
        "_outcome",
        "_part",
        "_span",
        "connection",
        "request",
        "timeout",
    )

    connection: Connection
    _member: Member

    def __init__(
        self,
        request: Generate | Infer,
        decision: RoutingDecision,
        part: ModelPart,
        deadline: float,
        fleet: Fleet,
        health: Health,
    ) -> None:
        self._began = now()
        self.request = request
        self.timeout = deadline - self._began  # seconds
        self._decision = decision
        self._part = part
        self._fleet = fleet
        self._health = health
        self._heard: float | None = None  # when the first part of the answer came
        self._outcome = Outcome.ABANDONED

    def __enter__(self) -> Asking:
        """Raises :class:`WorkerLost` when the worker has gone."""
        self.connection, self._member = self._fleet.way_to(self._decision.worker_id)
        self._member.changed_by(1)
        self._attempt = self._health.begin(self._decision.worker_id, self._part, self._began)
        self._span = NOTHING
        if self.request.trace:  # else what it would belong to is recorded by nobody
            self._span = _span(self.request.trace, self._decision)
            self.request = caused(self.request, self._span)
        return self

    def take_in(self, answer: Answer | None) -> Answer:
        """Raises :class:`EngineFailed` for what is no answer to this request, or for none at all."""
        if answer is None:
            raise EngineFailed(f"worker {self._decision.worker_id} ended the answer before its end")
        if not isinstance(answer, Chunk if isinstance(self.request, Generate) else Inferred):
            told, kind = type(answer).__name__, type(self.request).__name__
            raise EngineFailed(f"worker {self._decision.worker_id} answered {kind} with {told}")
        if self._heard is None:
            self._heard = now()
            if replica := self._member.replicas.get(self._part):
                # The time to the first part of an answer: the rest is as long as the answer is.
                replica.answered(self._heard - self._began, self._heard)
        if is_last(answer):
            self._outcome = Outcome.SUCCESS
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._span.__exit__(kind, error, traceback)
        self._member.changed_by(-1)
        if isinstance(error, ShoalError):
            self._outcome = _outcome(error)
        at = now()
        self._health.end(self._attempt, self._outcome, at)
        if self._heard is None and (replica := self._member.replicas.get(self._part)):
            replica.latency.waited(at - self._began, at)
        if isinstance(error, ProtocolError):
            worker_id = self._decision.worker_id
            raise EngineFailed(f"worker {worker_id} answers what cannot be understood: {error.message}") from error


def _outcome(error: ShoalError) -> Outcome:
    """What an error says of the model on this worker. That a deadline has passed says nothing: clients set them as
    short as they like, and a few impatient ones would take a healthy model from all the others. Nor does the end of the
    connection, which is told of the worker."""
    if isinstance(error, DeadlineExceeded | WorkerLost):
        return Outcome.ABANDONED
    return Outcome.FAILURE if error.fault == "server" or isinstance(error, ProtocolError) else Outcome.SUCCESS


def _span(trace: str, decision: RoutingDecision) -> Span:
    attributes = {"shoal.worker": decision.worker_id, "shoal.policy": decision.policy, "shoal.reason": decision.reason}
    return span(f"ask {decision.worker_id}", trace, kind=SpanKind.CLIENT, attributes=attributes)
