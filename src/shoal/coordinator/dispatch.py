"""A request on its way to an answer: which model, which of its shards, and what follows when none can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import TypeVar

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

A = TypeVar("A", bound=Answer)
R = TypeVar("R", bound=Generate | Infer)


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

    def close(self) -> None:
        """The coordinator stops: whoever waits for a turn, or for another worker, is told."""
        self._turns.close()
        self._sender.close()

    async def infer(self, request: Infer, spec: ModelSpec, deadline: float, observation: Observation) -> Inferred:
        """The one answer of a tensor model, or its first part. ``deadline`` is on the loop's clock.

        Raises :class:`ShoalError`; after its turn came, only when every worker that could help was tried, and every
        fallback model.
        """
        journey = Journey(spec, deadline, observation)
        answer: Inferred | None = None
        turn = self._turns.enter(request, spec, deadline)
        try:
            if turn.waits:
                await turn.wait()
            for model, suspects in self._models(request, journey):
                try:
                    answer = await self._infer_by(model, request, journey, suspects)
                    return answer if model is spec else _marked(answer, model)
                except ShoalError as error:
                    journey.failed_with(model.id, error, now())
            raise journey.final_error()
        finally:
            turn.leave(answer)

    async def answer(
        self, request: Generate | Infer, spec: ModelSpec, deadline: float, observation: Observation
    ) -> AsyncGenerator[Answer, None]:
        """The same in parts. Once the answer has begun it has no other error than its own."""
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
                    if answer is not None:
                        raise
                    journey.failed_with(model.id, error, now())
            raise journey.final_error()
        finally:
            turn.leave(answer)

    def _models(self, request: Generate | Infer, journey: Journey) -> Iterable[tuple[ModelSpec, bool]]:
        """Which model to ask next, and whether silent workers too: only when no other worker of any model can."""
        spec = journey.asked_for
        return self._with_fallbacks(request, journey) if spec.settings.fallback else ((spec, True),)

    def _with_fallbacks(self, request: Generate | Infer, journey: Journey) -> Iterator[tuple[ModelSpec, bool]]:
        """A fallback's own fallbacks are not asked, so there is no loop."""
        spec = journey.asked_for
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

    def _infer_by(self, spec: ModelSpec, request: Infer, journey: Journey, suspects: bool) -> Awaitable[Inferred]:
        request, parts = _scattered(_to(spec, request, journey), spec)
        if parts:
            return self._gathered(spec, request, parts, journey, suspects)
        return self._sender.infer(request, spec, journey, suspects=suspects)

    async def _by(
        self, spec: ModelSpec, request: Generate | Infer, journey: Journey, suspects: bool
    ) -> AsyncGenerator[Answer, None]:
        request = _to(spec, request, journey)
        if isinstance(request, Infer):
            request, parts = _scattered(request, spec)
            if parts:
                yield await self._gathered(spec, request, parts, journey, suspects)
                return
        async with aclosing(self._sender.stream(request, spec, journey, suspects=suspects)) as answers:
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
            answer = await self._sender.infer(request, spec, journey, suspects=suspects)
        except ShoalError as error:
            where = named(ModelPart(spec.id, request.shard))
            message = error.message if where in error.message else f"{where}: {error.message}"
            raise type(error)(message, param=error.param, retry_after=error.retry_after) from error
        if not answer.last:
            raise InvalidRequest("a model that streams its answer takes rows of one shard at a time", param="model")
        return answer.outputs


def _to(spec: ModelSpec, request: R, journey: Journey) -> R:
    """The request to this model, which may be another than was asked for."""
    if spec is journey.asked_for:
        return request
    return msgspec.structs.replace(request, model=spec.name, version=spec.version)


def _scattered(request: Infer, spec: ModelSpec) -> tuple[Infer, Sequence[Part]]:
    """The request to one shard; or, where it concerns several, what each of them gets."""
    if spec.settings.shards is None:
        return request, ()
    parts = scatter(request.inputs, request.key, spec.settings.shards)
    if len(parts) > 1:
        return request, parts
    return msgspec.structs.replace(request, shard=parts[0].shard), ()


def _marked(answer: A, model: ModelSpec) -> A:
    if isinstance(answer, Chunk | Inferred):
        return msgspec.structs.replace(answer, fallback=str(model.id))
    return answer
