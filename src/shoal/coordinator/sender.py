"""One request to one model, or to a shard of it: route, send, and try the next worker while nothing has come back."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from shoal.clock import now
from shoal.coordinator.decisions import Decisions
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.journey import Journey
from shoal.coordinator.observation import is_last
from shoal.errors import ShoalError, WorkerLost
from shoal.load_balancer import Health, Outcome, Replica
from shoal.messages import Answer, Generate, Infer
from shoal.model_registry import ModelSpec
from shoal.router import RoutingDecision, route
from shoal.telemetry import CoordinatorMetrics
from shoal.types import ModelPart

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # workers one request is sent to, one after the other, for each model


class Sender:
    def __init__(self, *, fleet: Fleet, health: Health, metrics: CoordinatorMetrics) -> None:
        self.decisions = Decisions()
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
        tried = journey.tried[part]
        last: ShoalError | None = None
        while True:
            try:
                decision = self._route(request, spec, part, journey, suspects)
            except ShoalError as error:
                raise last or error from error
            sent_on = False
            try:
                async with aclosing(self._ask(decision, part, request, journey.deadline)) as answers:
                    async for answer in answers:
                        sent_on = True
                        yield answer
                return
            except ShoalError as error:
                tried.add(decision.worker_id)
                if sent_on or not error.retryable or len(tried) >= MAX_ATTEMPTS or now() >= journey.deadline:
                    raise
                last = error
                self._retrying(request, decision, error)

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

    def _retrying(self, request: Generate | Infer, decision: RoutingDecision, error: ShoalError) -> None:
        self._metrics.retried(error.code)
        logger.warning(
            "request %s failed on %s, trying another worker: %s",
            request.request_id,
            decision.worker_id,
            error.message,
            extra={"action": "retry", "request_id": request.request_id, "code": error.code},
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
            with self._fleet.occupy(worker_id) as connection:
                async with connection.stream(request, timeout=deadline - began) as answers:
                    async for answer in answers:
                        if not answered:
                            answered = True
                            _observe(replica, began)
                        if is_last(answer):
                            outcome = Outcome.SUCCESS
                        yield answer
                    if outcome is not Outcome.SUCCESS:
                        raise WorkerLost(f"worker {worker_id} ended the answer before its end")
        except ShoalError as error:
            outcome = Outcome.FAILURE if error.fault == "server" else Outcome.SUCCESS
            raise
        finally:
            self._health.end(attempt, outcome, now())
            if not answered and replica is not None:
                replica.latency.waited(now() - began, now())


def _observe(replica: Replica | None, began: float) -> None:
    """The time to the first part of an answer: the rest is as long as the answer is."""
    if replica is not None:
        at = now()
        replica.latency.observe(at - began, at)
