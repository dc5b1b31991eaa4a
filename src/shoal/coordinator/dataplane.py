"""The data plane: the only door for requests, whichever surface they came through.

Find the model, check, admit, and hand on to the response cache, which asks the dispatcher for what it lacks.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import msgspec

from shoal.coordinator.admission import Admission, Place
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.in_flight import InFlight
from shoal.coordinator.observation import Observation
from shoal.coordinator.responses import Asked, Responses
from shoal.errors import InvalidRequest, ShoalError
from shoal.messages import Answer, Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec, Registry
from shoal.telemetry import CoordinatorMetrics
from shoal.telemetry.genai import conclude, describe, operation
from shoal.telemetry.tracing import Span, span
from shoal.types import ModelKind, ModelState, TensorSpec

_ALONE: Final = nullcontext((None,))


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A version of a model that clients may ask for."""

    name: str
    kind: ModelKind
    ready: bool  # at least one worker can run it now
    created: int  # seconds since 1970
    aliases: tuple[str, ...] = ()
    version: str = "1"
    live: bool = True  # the version that answers to the bare name
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batchable: bool | None = None  # None: not known before it is loaded
    context_length: int = 0  # tokens
    failed: bool = False  # every worker that has it could not load it
    reason: str = ""  # why it is not ready, where that is known
    absent: bool = False  # only workers told of it, and none has it now

    @property
    def state(self) -> ModelState:
        if self.ready:
            return ModelState.READY
        return ModelState.FAILED if self.failed else ModelState.LOADING


class DataPlane:
    def __init__(
        self,
        *,
        registry: Registry,
        fleet: Fleet,
        responses: Responses,
        admission: Admission,
        metrics: CoordinatorMetrics,
        in_flight: InFlight,
        request_timeout: float,
    ) -> None:
        self._registry = registry
        self._fleet = fleet
        self._responses = responses
        self._admission = admission
        self._metrics = metrics
        self._in_flight = in_flight
        self._request_timeout = request_timeout  # seconds, for a client and a model that set no deadline
        self._created = int(time.time())

    def models(self) -> Sequence[ServedModel]:
        present = self._fleet.present()
        return [
            self._served(spec, absent=spec.source is None and spec.id not in present) for spec in self._registry.list()
        ]

    def find(self, name: str, version: str | None = None, *, key: str = "") -> ModelSpec:
        """The model of a name or an alias; of several behind an alias ``key`` chooses, and the same one each time.

        Raises :class:`~shoal.errors.ModelNotFound`.
        """
        return self._registry.resolve(name if version is None else f"{name}@{version}", key=key)

    def ready(self) -> bool:
        """May requests come? At least one model is ready, and none is still to come.

        A model that has failed on every worker keeps nobody waiting, nor does one that left with its workers.
        """
        if self._admission.closed:
            return False
        models = self.models()
        waiting = (model for model in models if not (model.ready or model.failed or model.absent))
        return any(model.ready for model in models) and not any(waiting)

    def together(self, requests: Sequence[Generate]) -> AbstractContextManager[Sequence[Place | None]]:
        """Let the generations of one request in, all or none: a place for each, to be given to :meth:`generate`.

        Raises :class:`ShoalError`.
        """
        return _ALONE if len(requests) == 1 else self._together(requests)

    @contextmanager
    def _together(self, requests: Sequence[Generate]) -> Iterator[Sequence[Place]]:
        name = requests[0].model
        try:
            spec = self.find(name, requests[0].version, key=_key(requests[0]))
            name = spec.name
            spec.check_kind(ModelKind.GENERATE)
            places = self._admission.enter_together(requests, spec)
        except ShoalError:
            with Observation(self._metrics, name):  # the others are counted one by one
                raise
        try:
            yield places
        finally:
            for place in places:
                place.leave()

    async def generate(
        self, request: Generate, *, timeout: float | None = None, place: Place | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The answer in chunks; the last has a finish reason. Closing the generator stops the computing.

        ``place``: it has been let in already. Raises :class:`ShoalError`.
        """
        async with aclosing(self._answer(request, ModelKind.GENERATE, timeout, place)) as answers:
            async for answer in answers:
                assert isinstance(answer, Chunk)
                yield answer

    async def infer_stream(self, request: Infer, *, timeout: float | None = None) -> AsyncGenerator[Inferred, None]:
        """Run a tensor model; the last part of the answer says that it is the last. Raises :class:`ShoalError`."""
        async with aclosing(self._answer(request, ModelKind.TENSOR, timeout)) as answers:
            async for answer in answers:
                assert isinstance(answer, Inferred)
                yield answer

    async def infer(self, request: Infer, *, timeout: float | None = None) -> Inferred:
        """Run a tensor model that answers once. Raises :class:`ShoalError`."""
        with Observation(self._metrics, request.model) as observation, _traced(request) as made:
            asked = self._asked(request, ModelKind.TENSOR, timeout, observation, made)
            place = self._admission.enter(asked.request, asked.spec)
            self._in_flight.began(asked.spec.id)
            try:
                answer = await self._responses.infer(asked)
            finally:
                self._in_flight.finished(asked.spec.id)
                place.leave()
            if not answer.last:
                raise InvalidRequest(f"model '{request.model}' streams its answer: ask for a stream", param="model")
            return answer

    async def _answer(
        self, request: Generate | Infer, kind: ModelKind, timeout: float | None, place: Place | None = None
    ) -> AsyncGenerator[Answer, None]:
        with Observation(self._metrics, request.model) as observation, _traced(request) as made:
            asked = self._asked(request, kind, timeout, observation, made)
            place = place or self._admission.enter(asked.request, asked.spec)
            self._in_flight.began(asked.spec.id)
            try:
                async with aclosing(self._responses.answer(asked)) as answers:
                    async for answer in answers:
                        observation.answered(answer)
                        conclude(made, answer)
                        yield answer
            finally:
                self._in_flight.finished(asked.spec.id)
                place.leave(observation.tokens)

    def _asked(
        self, request: Generate | Infer, kind: ModelKind, timeout: float | None, observation: Observation, made: Span
    ) -> Asked:
        """The request, checked. Raises :class:`ShoalError`."""
        spec = self.find(request.model, request.version, key=_key(request))
        observation.model = spec.name
        spec.check_kind(kind)
        if isinstance(request, Infer):
            spec.check(request.inputs)
        deadline = observation.began + (timeout or spec.settings.timeout or self._request_timeout)
        describe(made, request, spec.id)
        key = self._responses.key(request, spec) or b""
        return Asked(key, _complete(request, spec, made.trace), spec, deadline, observation)

    def _served(self, spec: ModelSpec, *, absent: bool) -> ServedModel:
        state, reason = self._fleet.state(spec.id)
        return ServedModel(
            name=spec.name,
            kind=spec.kind,
            ready=state is ModelState.READY,
            created=self._created,
            aliases=self._registry.aliases(spec),
            version=spec.version,
            live=self._registry.is_live(spec.id),
            inputs=spec.inputs,
            outputs=spec.outputs,
            batchable=spec.batchable,
            context_length=spec.context_length,
            failed=state is ModelState.FAILED,
            reason=reason,
            absent=absent,
        )


def _key(request: Generate | Infer) -> str:
    """The generations of one request are all of one model."""
    return (isinstance(request, Generate) and request.group) or request.request_id


def _traced(request: Generate | Infer) -> Span:
    return span(operation(request), request.trace, of=request.model)


def _complete(request: Generate | Infer, spec: ModelSpec, trace: str) -> Generate | Infer:
    """The request as workers get it: with the model's own name, and with a seed, so that it can be computed again."""
    if (request.model, request.version, request.trace) != (spec.name, spec.version, trace):
        request = msgspec.structs.replace(request, model=spec.name, version=spec.version, trace=trace)
    if isinstance(request, Generate) and request.sampling.seed is None:
        seeded = msgspec.structs.replace(request.sampling, seed=random.getrandbits(63))
        return msgspec.structs.replace(request, sampling=seeded)
    return request
