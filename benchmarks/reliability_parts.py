"""Something that does nothing, in the place of each part that keeps the promises: see `reliability_cost.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from shoal.coordinator.observation import is_last
from shoal.coordinator.sender import Sender
from shoal.load_balancer import Health, Replica
from shoal.messages import Answer, Inferred
from shoal.model_registry import ModelSpec
from shoal.node import Coordinator
from shoal.rpc import Connection
from shoal.types import ModelPart
from shoal.worker.generation import GenerationLoop

Without = Callable[[Coordinator], AbstractContextManager[Any]]


class Trip(NamedTuple):
    """What is left of the attempts at a request: one."""

    request: Any
    spec: ModelSpec
    journey: Any
    suspects: bool
    part: ModelPart

    def asking(self) -> Any:
        return self.request


async def infer_once(self: Any, request: Any, spec: ModelSpec, journey: Any, *, suspects: bool) -> Inferred:
    trip = Trip(request, spec, journey, suspects, ModelPart(spec.id))
    answer: Inferred = await self._answer(self._route(trip), trip)
    return answer


async def stream_once(
    self: Any, request: Any, spec: ModelSpec, journey: Any, *, suspects: bool
) -> AsyncGenerator[Answer, None]:
    trip = Trip(request, spec, journey, suspects, ModelPart(spec.id))
    with self._asking(self._route(trip), trip) as asking:
        async with asking.connection.stream(asking.request, asking.timeout) as answers:
            async for answer in answers:
                yield asking.take_in(answer)
                if is_last(answer):
                    return


class Open:
    """A door that lets everybody in, and a line that nobody waits in."""

    waits = False

    def enter(self, *_: object) -> Open:
        return self

    def leave(self, *_: object) -> None:
        return None


def nothing(*_: object, **__: object) -> None:
    return None


async def only_ended(self: object, ended: asyncio.Future[Any]) -> Any:
    return await ended


@contextmanager
def patched(*patches: tuple[Any, str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, value in patches:
            stack.enter_context(patch.object(owner, name, value))
        yield


def without_attempts(_: Coordinator) -> AbstractContextManager[None]:
    return patched((Sender, "infer", infer_once), (Sender, "stream", stream_once))


def without_health(_: Coordinator) -> AbstractContextManager[None]:
    always = (Health, "available", lambda *_: True)
    return patched((Health, "begin", nothing), (Health, "end", nothing), always, (Replica, "answered", nothing))


def without_admission(coordinator: Coordinator) -> AbstractContextManager[None]:
    return patched((coordinator.plane, "_admission", Open()))


def without_turns(coordinator: Coordinator) -> AbstractContextManager[None]:
    return patched((coordinator.dispatcher, "_turns", Open()))


def without_deadlines(_: Coordinator) -> AbstractContextManager[None]:
    """Neither timers nor times on the wire."""
    first, stream = Connection.first, Connection.stream
    return patched(
        (Connection, "first", lambda self, message, timeout: first(self, message, None)),
        (Connection, "stream", lambda self, message, timeout: stream(self, message, None)),
    )


def without_watch(_: Coordinator) -> AbstractContextManager[None]:
    """Of a worker over its engine's steps."""
    return patched((GenerationLoop, "_watch", nothing), (GenerationLoop, "_outcomes", only_ended))


PARTS: Final[dict[str, Without]] = {
    "attempts, what has gone out, retry budget": without_attempts,
    "health and speed of workers": without_health,
    "admission: bounds in all, of tenants, of models": without_admission,
    "turns: fair queue, deadlines that cannot be met": without_turns,
    "deadlines on the way and their timers": without_deadlines,
    "watch over the engine's steps": without_watch,
}


@contextmanager
def without_all(coordinator: Coordinator) -> Iterator[None]:
    with ExitStack() as stack:
        for without in PARTS.values():
            stack.enter_context(without(coordinator))
        yield


ALL: Final = "all of these"
