"""A request on its way to the workers: route, send, and, as long as nothing of an answer has gone out, try the next
worker when one fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from shoal.clock import now
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.observation import Observation, is_last
from shoal.errors import ShoalError, WorkerLost
from shoal.load_balancer import Health, Outcome, Policy
from shoal.messages import Answer, Generate, Infer
from shoal.model_registry import ModelSpec
from shoal.router import route
from shoal.telemetry import CoordinatorMetrics
from shoal.types import WorkerId

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # workers one request is sent to, one after the other


class Dispatcher:
    def __init__(self, *, fleet: Fleet, health: Health, policy: Policy, metrics: CoordinatorMetrics) -> None:
        self._fleet = fleet
        self._health = health
        self._policy = policy
        self._metrics = metrics

    async def answer(
        self, request: Generate | Infer, spec: ModelSpec, deadline: float, observation: Observation
    ) -> AsyncGenerator[Answer, None]:
        """``deadline`` is on the loop's clock. Raises :class:`ShoalError`; before the first part of the answer only
        after every worker that could help was tried."""
        tried: set[WorkerId] = set()
        last: ShoalError | None = None
        while True:
            try:
                decision = route(
                    spec, fleet=self._fleet, health=self._health, policy=self._policy, now=now(), excluded=tried
                )
            except ShoalError as error:
                raise last or error from error
            observation.routed(decision.policy, decision.reason)
            sent_on = False
            try:
                async with aclosing(self._ask(decision.worker_id, request, deadline)) as answers:
                    async for answer in answers:
                        sent_on = True
                        yield answer
                return
            except ShoalError as error:
                tried.add(decision.worker_id)
                if sent_on or not error.retryable or len(tried) >= MAX_ATTEMPTS or now() >= deadline:
                    raise
                last = error
                self._metrics.retried(error.code)
                logger.warning(
                    "request %s failed on %s, trying another worker: %s",
                    request.request_id,
                    decision.worker_id,
                    error.message,
                    extra={"action": "retry", "request_id": request.request_id, "code": error.code},
                )

    async def _ask(
        self, worker_id: WorkerId, request: Generate | Infer, deadline: float
    ) -> AsyncGenerator[Answer, None]:
        """One worker's answers. What the outcome says about the worker's health is noted on every way out."""
        attempt = self._health.begin(worker_id, now())
        outcome = Outcome.ABANDONED
        try:
            with self._fleet.occupy(worker_id) as connection:
                async with connection.stream(request, timeout=deadline - now()) as answers:
                    async for answer in answers:
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
