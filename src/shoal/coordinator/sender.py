"""One request to one model, or to a shard of it: route, send, and when a worker fails, go on with another.

Before the first part of an answer another worker begins it anew. After it, another worker goes on behind the last
token that went out, and the client sees nothing but a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from shoal.clock import now
from shoal.coordinator.continuation import Continuation
from shoal.coordinator.decisions import Decisions
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.journey import Journey
from shoal.coordinator.observation import is_last
from shoal.errors import DeadlineExceeded, EngineFailed, Overloaded, ProtocolError, ShoalError, WorkerLost
from shoal.load_balancer import Health, Outcome, Replica, RetryBudget
from shoal.messages import Answer, Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec
from shoal.router import RoutingDecision, route
from shoal.telemetry import CoordinatorMetrics
from shoal.telemetry.genai import caused
from shoal.telemetry.tracing import Span, SpanKind, span
from shoal.types import ModelPart, WorkerId

logger = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds that a request which lost its worker waits for another: as long as a restart takes
LOOK_AGAIN = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class _Loss:
    """Why and when a request was last without a worker, and whether it waits for another."""

    error: ShoalError
    at: float
    patient: bool


class Sender:
    def __init__(self, *, fleet: Fleet, health: Health, metrics: CoordinatorMetrics) -> None:
        self.decisions = Decisions()
        self._budget = RetryBudget()
        self._fleet = fleet
        self._health = health
        self._metrics = metrics

    async def send(
        self, request: Generate | Infer, spec: ModelSpec, journey: Journey, *, suspects: bool
    ) -> AsyncGenerator[Answer, None]:
        """The answer of the first worker that gives one. ``suspects``: ask silent workers too, where no other can.

        Raises :class:`ShoalError`.
        """
        part = ModelPart(spec.id, request.shard if isinstance(request, Infer) else None)
        answer_so_far = Continuation(request)
        self._budget.deposit()
        lost: _Loss | None = None
        failure: tuple[RoutingDecision, ShoalError] | None = None  # of the attempt before this one
        while True:
            decision = await self._next(request, spec, part, journey, suspects, lost)
            if failure is not None:
                self._going_on(request, decision, *failure, begun=answer_so_far.begun)
            try:
                async with aclosing(self._ask(decision, part, answer_so_far.asking(), journey.deadline)) as answers:
                    async for answer in answers:
                        if lost is not None and answer_so_far.begun:
                            self._metrics.resumed(spec.name, now() - lost.at)
                        lost = None
                        answer_so_far.passed_on(answer)
                        yield answer
                return
            except ShoalError as error:
                journey.tried[part].add(decision.worker_id)
                answer_so_far.failed(error)
                if not error.retryable or not answer_so_far.can_go_on or now() >= journey.deadline:
                    raise
                if not answer_so_far.begun and not self._budget.withdraw():
                    raise
                patient = answer_so_far.begun or (isinstance(error, WorkerLost) and not spec.settings.fallback)
                lost = lost or _Loss(error, now(), patient)
                failure = decision, error

    async def _next(
        self,
        request: Generate | Infer,
        spec: ModelSpec,
        part: ModelPart,
        journey: Journey,
        suspects: bool,
        lost: _Loss | None,
    ) -> RoutingDecision:
        """Where to send it next. A request that lost its worker waits for one that is free, or comes back; so does
        one whose turn it was, when other models took the worker's last place meanwhile."""
        while True:
            try:
                return self._route(request, spec, part, journey, suspects)
            except ShoalError as error:
                if lost is None:
                    waits = isinstance(error, Overloaded) and not spec.settings.fallback
                    if not waits or now() >= journey.deadline:
                        raise
                elif not lost.patient or now() >= min(journey.deadline, lost.at + PATIENCE):
                    raise lost.error from error
            # By now those that were tried may have been started again.
            journey.tried[part].clear()
            await asyncio.sleep(LOOK_AGAIN)

    def _route(
        self, request: Generate | Infer, spec: ModelSpec, part: ModelPart, journey: Journey, suspects: bool
    ) -> RoutingDecision:
        decision = route(
            spec,
            fleet=self._fleet,
            health=self._health,
            now=now(),
            shard=part.shard,
            excluded=journey.tried[part],
            suspects=suspects,
            instead_of=None if spec is journey.asked_for else journey.asked_for.id,
        )
        journey.observation.routed(decision.policy, decision.reason)
        self.decisions.note(request.request_id, decision)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "request %s goes to %s for %s by %s, %s, 1 of %d",
                request.request_id,
                decision.worker_id,
                part,
                decision.policy,
                decision.reason,
                decision.candidates,
                extra={"action": "routed", "request_id": request.request_id, "worker": decision.worker_id},
            )
        return decision

    def _going_on(
        self,
        request: Generate | Infer,
        decision: RoutingDecision,
        failed: RoutingDecision,
        error: ShoalError,
        *,
        begun: bool,
    ) -> None:
        self._metrics.retried(error.code)
        logger.warning(
            "request %s goes on with %s, as %s failed: %s"
            if begun
            else "request %s is tried again with %s, as %s failed: %s",
            request.request_id,
            decision.worker_id,
            failed.worker_id,
            error.message,
            extra={"action": "failover" if begun else "retry", "request_id": request.request_id, "code": error.code},
        )

    async def _ask(
        self, decision: RoutingDecision, part: ModelPart, request: Generate | Infer, deadline: float
    ) -> AsyncGenerator[Answer, None]:
        """One worker's answers. What they say about its health and speed is noted on every way out."""
        worker_id, replica = decision.worker_id, self._fleet.replica(part, decision.worker_id)
        began, answered = now(), False
        attempt = self._health.begin(worker_id, began)
        outcome = Outcome.ABANDONED
        try:
            with self._fleet.occupy(worker_id) as connection, _span(request, decision) as made:
                async with connection.stream(caused(request, made), timeout=deadline - began) as answers:
                    async for answer in answers:
                        _check(answer, request, worker_id)
                        if not answered:
                            answered = True
                            _observe(replica, began)
                        if is_last(answer):
                            outcome = Outcome.SUCCESS
                            yield answer
                            return
                        yield answer
                    raise WorkerLost(f"worker {worker_id} ended the answer before its end")
        except ProtocolError as error:
            outcome = Outcome.FAILURE
            raise EngineFailed(f"worker {worker_id} answers what cannot be understood: {error.message}") from error
        except ShoalError as error:
            outcome = _outcome(error)
            raise
        finally:
            self._health.end(attempt, outcome, now())
            if not answered and replica is not None:
                replica.latency.waited(now() - began, now())


def _check(answer: Answer, request: Generate | Infer, worker_id: WorkerId) -> None:
    """Raises :class:`EngineFailed` for what is no answer to this request: another worker may have a better one."""
    if not isinstance(answer, Chunk if isinstance(request, Generate) else Inferred):
        raise EngineFailed(f"worker {worker_id} answered {type(request).__name__} with {type(answer).__name__}")


def _outcome(error: ShoalError) -> Outcome:
    """What an error says of the worker. That a deadline has passed says nothing: clients set them as short as they
    like, and a few impatient ones would take a healthy worker from all the others."""
    if isinstance(error, DeadlineExceeded):
        return Outcome.ABANDONED
    return Outcome.FAILURE if error.fault == "server" else Outcome.SUCCESS


def _span(request: Generate | Infer, decision: RoutingDecision) -> Span:
    attributes = {"shoal.worker": decision.worker_id, "shoal.policy": decision.policy, "shoal.reason": decision.reason}
    return span(f"ask {decision.worker_id}", request.trace, kind=SpanKind.CLIENT, attributes=attributes)


def _observe(replica: Replica | None, began: float) -> None:
    """The time to the first part of an answer: the rest is as long as the answer is."""
    if replica is not None:
        at = now()
        replica.answered(at - began, at)
