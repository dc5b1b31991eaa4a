"""The data plane: the only door for requests, whichever surface they came through.

Admit, route, send, and, as long as nothing of an answer has gone out, try the next worker when one fails.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass

import msgspec

from shoal.clock import now
from shoal.coordinator.admission import Admission
from shoal.coordinator.fleet import Fleet
from shoal.coordinator.observation import Observation, is_last, observed
from shoal.errors import InvalidRequest, ShoalError, WorkerLost
from shoal.load_balancer import Health, Outcome, Policy
from shoal.messages import Answer, Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec, Registry
from shoal.router import route
from shoal.telemetry import CoordinatorMetrics
from shoal.types import ModelKind, WorkerId

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # workers one request is sent to, one after the other


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that clients may ask for."""

    name: str
    kind: ModelKind
    ready: bool  # at least one worker can run it now
    created: int  # seconds since 1970
    aliases: tuple[str, ...] = ()


class DataPlane:
    def __init__(
        self,
        *,
        registry: Registry,
        fleet: Fleet,
        health: Health,
        policy: Policy,
        admission: Admission,
        metrics: CoordinatorMetrics,
        request_timeout: float,
    ) -> None:
        self._registry = registry
        self._fleet = fleet
        self._health = health
        self._policy = policy
        self._admission = admission
        self._metrics = metrics
        self._request_timeout = request_timeout  # seconds, for a client that sets no deadline
        self._created = int(time.time())

    def models(self) -> Sequence[ServedModel]:
        return [
            ServedModel(
                name=spec.name,
                kind=spec.kind,
                ready=self._fleet.is_ready(spec.name),
                created=self._created,
                aliases=self._registry.aliases(spec),
            )
            for spec in self._registry.list()
        ]

    def ready(self) -> bool:
        """Is every model that is known ready on at least one worker, and may requests come in?"""
        specs = self._registry.list()
        return not self._admission.closed and bool(specs) and all(self._fleet.is_ready(spec.name) for spec in specs)

    async def generate(self, request: Generate, *, timeout: float | None = None) -> AsyncGenerator[Chunk, None]:
        """The answer in chunks; the last has a finish reason. Closing the generator stops the computing.

        Raises :class:`ShoalError`; before the first chunk only after every worker that could help was tried.
        """
        async with aclosing(self._dispatch(request, ModelKind.GENERATE, timeout)) as answers:
            async for answer in answers:
                assert isinstance(answer, Chunk)
                yield answer

    async def infer(self, request: Infer, *, timeout: float | None = None) -> Inferred:
        """Run a tensor model once. Raises :class:`ShoalError`."""
        async with aclosing(self._dispatch(request, ModelKind.TENSOR, timeout)) as answers:
            async for answer in answers:
                assert isinstance(answer, Inferred)
                return answer
        raise WorkerLost("the worker ended without an answer")

    async def _dispatch(
        self, request: Generate | Infer, kind: ModelKind, timeout: float | None
    ) -> AsyncGenerator[Answer, None]:
        deadline = now() + (timeout or self._request_timeout)
        with self._let_in(), observed(self._metrics, request.model) as observation:
            spec = self._registry.resolve(request.model)
            _check_kind(spec, kind)
            request = msgspec.structs.replace(request, model=spec.name)
            async with aclosing(self._attempts(request, spec, deadline, observation)) as answers:
                async for answer in answers:
                    observation.answered(answer)
                    yield answer

    @contextmanager
    def _let_in(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._admission.admit())
            except ShoalError as error:
                self._metrics.rejected(error.code)
                raise
            yield

    async def _attempts(
        self, request: Generate | Infer, spec: ModelSpec, deadline: float, observation: Observation
    ) -> AsyncGenerator[Answer, None]:
        tried: set[WorkerId] = set()
        last: ShoalError | None = None
        while True:
            try:
                decision = route(
                    spec.name,
                    registry=self._registry,
                    fleet=self._fleet,
                    health=self._health,
                    policy=self._policy,
                    now=now(),
                    excluded=tried,
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


def _check_kind(spec: ModelSpec, kind: ModelKind) -> None:
    if spec.kind is not kind:
        does = {ModelKind.GENERATE: "generates text", ModelKind.TENSOR: "infers on tensors"}
        raise InvalidRequest(
            f"model '{spec.name}' {does[spec.kind]}; this request needs one that {does[kind]}", param="model"
        )
