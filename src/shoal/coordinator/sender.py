"""One request to one model, or to a shard of it: route, send, and when a worker fails, go on with another.

Before the first part of an answer another worker begins it anew. After it, another worker goes on behind the last
token that went out, or the last part, and the client sees nothing but a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from shoal.clock import now
from shoal.coordinator.asking import Asking
from shoal.coordinator.attempts import Attempts
from shoal.coordinator.decisions import Decisions
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.hedges import Hedges, NobodyElse
from shoal.coordinator.journey import Journey
from shoal.coordinator.observation import is_last
from shoal.errors import Draining, EngineFailed, ShoalError
from shoal.load_balancer import Health, Hedging, RetryBudget
from shoal.messages import Answer, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec
from shoal.router import RoutingDecision, route
from shoal.router.route import RETRY_AFTER
from shoal.telemetry import CoordinatorMetrics

logger = logging.getLogger(__name__)

LOOK_AGAIN = 0.1  # seconds


class Sender:
    def __init__(self, *, fleet: Fleet, health: Health, metrics: CoordinatorMetrics) -> None:
        self.decisions = Decisions()
        self._budget = RetryBudget()
        self._hedges = Hedges(metrics.hedged)
        self._fleet = fleet
        self._health = health
        self._metrics = metrics
        self._closed = False

    def close(self) -> None:
        """Nobody waits for another worker any longer."""
        self._closed = True

    async def infer(self, request: Infer, spec: ModelSpec, journey: Journey, *, suspects: bool) -> Inferred:
        """The one answer, or the first part, of the first worker that gives one. ``suspects``: ask silent workers too,
        where no other can.

        Raises :class:`ShoalError`.
        """
        attempts = self._attempts(request, spec, journey, suspects)
        if (hedging := self._hedges.of(spec)) is not None:
            return await self._hedged(hedging, attempts)
        while True:
            decision = self._now(attempts) or await self._later(attempts)
            try:
                return await self._answer(decision, attempts)
            except ShoalError as error:
                attempts.failed(decision, error, now())

    async def _hedged(self, hedging: Hedging, attempts: Attempts) -> Inferred:
        """The same, of whichever of two workers answers first."""
        while True:
            asked: list[RoutingDecision] = []
            ask, another = self._chosen(attempts, asked), partial(self._another, attempts, asked)
            try:
                return await self._hedges.first(hedging, attempts.spec.name, ask, another)
            except ShoalError as error:
                if not asked:  # there is nobody to ask
                    raise
                attempts.failed(asked[0], error, now())

    async def _chosen(self, attempts: Attempts, asked: list[RoutingDecision]) -> Inferred:
        """A worker is chosen in the step in which its place is taken: before a task begins, others choose too."""
        asked.append(self._now(attempts) or await self._later(attempts))
        return await self._answer(asked[0], attempts)

    async def _another(self, attempts: Attempts, asked: Sequence[RoutingDecision]) -> Inferred:
        """The same of a worker beside the one that was asked. Raises :class:`NobodyElse`."""
        if not asked:
            raise NobodyElse
        attempts.journey.try_no_more(attempts.part, asked[0].worker_id)
        try:
            decision = self._route(attempts)
        except ShoalError as error:
            raise NobodyElse from error
        return await self._answer(decision, attempts)

    async def stream(
        self, request: Generate | Infer, spec: ModelSpec, journey: Journey, *, suspects: bool
    ) -> AsyncGenerator[Answer, None]:
        """The same in parts. An answer that has begun goes on with another worker, if it can."""
        attempts = self._attempts(request, spec, journey, suspects)
        while True:
            decision = self._now(attempts) or await self._later(attempts)
            try:
                ask = self._behind if attempts.begins_anew else self._answers
                async with aclosing(ask(decision, attempts)) as answers:
                    async for answer in answers:
                        if (loss := attempts.passed_on(answer)) is not None:
                            self._metrics.resumed(spec.name, now() - loss.since)
                        yield answer
                return
            except ShoalError as error:
                attempts.failed(decision, error, now())

    async def _answer(self, decision: RoutingDecision, attempts: Attempts) -> Inferred:
        """One worker's, in one piece."""
        with self._asking(decision, attempts) as asking:
            answer = asking.take_in(await asking.connection.first(asking.request, asking.timeout))
            assert isinstance(answer, Inferred)
            return answer

    def _attempts(self, request: Generate | Infer, spec: ModelSpec, journey: Journey, suspects: bool) -> Attempts:
        self._budget.deposit()
        return Attempts(request, spec, journey, self._budget, suspects=suspects)

    def _asking(self, decision: RoutingDecision, attempts: Attempts) -> Asking:
        part, deadline = attempts.part, attempts.journey.deadline
        return Asking(attempts.asking(), decision, part, deadline, self._fleet, self._health)

    async def _answers(self, decision: RoutingDecision, attempts: Attempts) -> AsyncGenerator[Answer, None]:
        """One worker's."""
        with self._asking(decision, attempts) as asking:
            async with asking.connection.stream(asking.request, asking.timeout) as answers:
                async for answer in answers:
                    yield asking.take_in(answer)
                    if is_last(answer):
                        return
            raise EngineFailed(f"worker {decision.worker_id} ended the answer before its end")

    async def _behind(self, decision: RoutingDecision, attempts: Attempts) -> AsyncGenerator[Answer, None]:
        """The same of an answer that begins anew: what comes behind the parts that have gone out."""
        async with aclosing(self._answers(decision, attempts)) as answers:
            async for answer in answers:
                if not attempts.is_known(answer):
                    yield answer

    def _now(self, attempts: Attempts) -> RoutingDecision | None:
        """Where to send it next; None for a request that lost its worker and waits, or whose turn it was when other
        models took the worker's last place. Raises :class:`ShoalError`."""
        try:
            decision = self._route(attempts)
        except ShoalError as error:
            attempts.none_to_ask(error, now())
            return None
        if attempts.failure is not None:
            self._going_on(attempts.request, decision, *attempts.failure, begun=attempts.begun)
        return decision

    async def _later(self, attempts: Attempts) -> RoutingDecision:
        """The same, once there is a worker that is free or has come back."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            if self._closed:
                raise Draining(retry_after=RETRY_AFTER)
            if (decision := self._now(attempts)) is not None:
                return decision

    def _route(self, attempts: Attempts) -> RoutingDecision:
        request, spec, part, journey = attempts.request, attempts.spec, attempts.part, attempts.journey
        at = now()
        decision = route(
            spec,
            fleet=self._fleet,
            health=self._health,
            now=at,
            shard=part.shard,
            excluded=journey.tried(part),
            suspects=attempts.suspects,
            instead_of=None if spec is journey.asked_for else journey.asked_for.id,
        )
        journey.observation.routed(decision.policy, decision.reason, at)
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
