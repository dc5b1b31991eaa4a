"""A request on its way to an answer: which model, which of its shards, and what follows when none can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

import msgspec

from shoal.clock import now
from shoal.coordinator.admission import Turns
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.journey import Journey
from shoal.coordinator.observation import Observation
from shoal.coordinator.sender import Sender
from shoal.errors import InvalidRequest, ModelUnavailable, ShoalError
from shoal.load_balancer import Health
from shoal.messages import Answer, Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec, Registry
from shoal.router import Part, RoutingDecision, gather, scatter
from shoal.router.route import named
from shoal.telemetry import CoordinatorMetrics
from shoal.types import ModelPart, RequestId, Tensors


class Dispatcher:
    def __init__(
        self, *, fleet: Fleet, health: Health, registry: Registry, turns: Turns, metrics: CoordinatorMetrics
    ) -> None:
        self._registry = registry
        self._turns = turns
        self._sender = Sender(fleet=fleet, health=health, metrics=metrics)

    def decision(self, request_id: RequestId) -> tuple[RoutingDecision, ...]:
        """Where one of the last requests went and why: one decision for each time it was sent to a worker."""
        return self._sender.decisions.of(request_id)

    async def answer(
        self, request: Generate | Infer, spec: ModelSpec, deadline: float, observation: Observation
    ) -> AsyncGenerator[Answer, None]:
        """``deadline`` is on the loop's clock. Raises :class:`ShoalError`; before the first part of the answer only
        after its turn came, and every worker that could help was tried, and every fallback model."""
        journey = Journey(spec, deadline, observation)
        answer: Answer | None = None
        turn = self._turns.enter(request, spec, deadline)
        try:
            if turn.waits:
                await turn.wait()
            for model, suspects in self._models(request, journey):
                try:
                    async with aclosing(self._by(model, request, journey, suspects)) as answers:
                        async for answer in answers:
                            yield answer if model is spec else _marked(answer, model)
                    return
                except ShoalError as error:
                    if answer is not None or not error.retryable or now() >= deadline:
                        raise
                    journey.failed(model.id, error)
            raise journey.final_error()
        finally:
            turn.leave(answer)

    def _models(self, request: Generate | Infer, journey: Journey) -> Iterator[tuple[ModelSpec, bool]]:
        """Which model to ask next, and whether silent workers too: only when no other worker of any model can.

        A fallback's own fallbacks are not asked, so there is no loop.
        """
        spec = journey.asked_for
        if not spec.settings.fallback:
            yield spec, True
            return
        yield spec, False
        others = self._fallbacks(request, journey)
        for suspects in (False, True):
            if suspects:
                yield spec, True
            for other in others:
                yield other, suspects

    def _fallbacks(self, request: Generate | Infer, journey: Journey) -> list[ModelSpec]:
        found: list[ModelSpec] = []
        spec = journey.asked_for
        for name in spec.settings.fallback:
            try:
                other = self._registry.resolve(name, key=request.request_id)
            except ShoalError as error:
                journey.failed(name, error)
                continue
            if other.kind is not spec.kind:
                journey.failed(name, ModelUnavailable(f"it is for other requests than '{spec.name}' is"))
            elif other.id != spec.id and other not in found:
                found.append(other)
        return found

    # -- one model

    async def _by(
        self, spec: ModelSpec, request: Generate | Infer, journey: Journey, suspects: bool
    ) -> AsyncGenerator[Answer, None]:
        if spec is not journey.asked_for:
            request = msgspec.structs.replace(request, model=spec.name, version=spec.version)
        if spec.settings.shards is not None and isinstance(request, Infer):
            parts = scatter(request.inputs, request.key, spec.settings.shards)
            if len(parts) > 1:
                yield await self._gathered(spec, request, parts, journey, suspects)
                return
            request = msgspec.structs.replace(request, shard=parts[0].shard)
        async with aclosing(self._sender.send(request, spec, journey, suspects=suspects)) as answers:
            async for answer in answers:
                yield answer

    async def _gathered(
        self, spec: ModelSpec, request: Infer, parts: Sequence[Part], journey: Journey, suspects: bool
    ) -> Inferred:
        """All parts at once; the first that fails cancels the others."""
        asked = []
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    one = msgspec.structs.replace(request, inputs=part.inputs, shard=part.shard)
                    coroutine = self._of_shard(spec, one, journey, suspects)
                    asked.append(group.create_task(coroutine, name=f"{request.request_id} shard {part.shard}"))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return Inferred(gather(parts, [task.result() for task in asked]))

    async def _of_shard(self, spec: ModelSpec, request: Infer, journey: Journey, suspects: bool) -> Tensors:
        """The one answer of a shard. What goes wrong there is said to be there."""
        try:
            async with aclosing(self._sender.send(request, spec, journey, suspects=suspects)) as answers:
                async for answer in answers:
                    assert isinstance(answer, Inferred)
                    if not answer.last:
                        raise InvalidRequest(
                            "a model that streams its answer takes rows of one shard at a time", param="model"
                        )
                    return answer.outputs
        except ShoalError as error:
            where = named(ModelPart(spec.id, request.shard))
            message = error.message if where in error.message else f"{where}: {error.message}"
            raise type(error)(message, param=error.param, retry_after=error.retry_after) from error
        raise AssertionError("a worker's answer has an end, or is an error")


def _marked(answer: Answer, model: ModelSpec) -> Answer:
    if isinstance(answer, (Chunk, Inferred)):
        return msgspec.structs.replace(answer, fallback=str(model.id))
    return answer
