"""Who asks a fleet for what, and what came of each request: generations, tensors in one piece and in parts, of several
tenants and priorities, by clients that wait, leave, or lose their connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import numpy as np
from sim.simulation import MODEL, SERIES, STEP, TABLE, Fleet, NumbersRuntime

from shoal.client import AsyncClient
from shoal.clock import now
from shoal.coordinator.admission import Turn
from shoal.errors import ShoalError
from shoal.messages import Generate, Infer, Inferred, ModelInfo
from shoal.model_registry import ModelSpec
from shoal.types import ModelKind, ModelState, RequestId, Sampling, TextPrompt
from shoal.worker.runtime import Send

TENANTS: Final = ("", "many", "some", "seldom")
PRIORITIES: Final = (-2, 0, 0, 0, 1, 5)
LENGTH: Final = 60  # tokens of an answer at most
SHORT: Final = 0.3  # seconds that a client in a hurry has
LONG: Final = 60.0  # and any other


class Kind(Enum):
    GENERATE = "generate"
    CLIENT = "client"  # the same, by a client on a connection of its own
    WHOLE = "whole"  # tensors in one piece, hedged
    PARTS = "parts"  # tensors in parts


KINDS: Final = (*[Kind.GENERATE] * 5, *[Kind.CLIENT] * 2, *[Kind.WHOLE] * 2, Kind.PARTS)


@dataclass
class Asked:
    """One request and what came of it. Times in seconds."""

    length: int
    timeout: float
    tokens: list[int] = field(default_factory=list)
    finished: int = 0  # parts that said that they are the last
    end: str = ""  # how it ended: finished, left, or an error's code
    took: float = 0.0
    kind: Kind = Kind.GENERATE
    tenant: str = ""
    priority: int = 0
    leaves_at: int | None = None  # after so many tokens
    leaves_after: float | None = None  # or so much time
    began: float = 0.0
    turn: float | None = None  # when it came, if it had to be waited for

    @property
    def model(self) -> str:
        return {Kind.WHOLE: TABLE, Kind.PARTS: SERIES}.get(self.kind, MODEL)


class TableRuntime(NumbersRuntime):
    """Of :data:`TABLE`: gives its input back, now and then late."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.info = ModelInfo(name=TABLE, kind=ModelKind.TENSOR, state=ModelState.READY)
        self._chance = chance

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        self.running.add(request.request_id)
        try:
            await asyncio.sleep(self._chance.choice((STEP, STEP, STEP, 20 * STEP)))
            await send(Inferred(request.inputs))
        finally:
            self.running.discard(request.request_id)


def somebody(chance: random.Random) -> Asked:
    """Some clients have little time, some leave in the middle or before it."""
    asked = Asked(chance.randint(1, LENGTH), chance.choice((SHORT, LONG, LONG, LONG)), kind=chance.choice(KINDS))
    match chance.randrange(10):
        case 0:
            asked.leaves_at = chance.randint(0, LENGTH // 2)
        case 1:
            asked.leaves_after = chance.uniform(0, 2)
    if asked.kind is Kind.CLIENT:
        asked.timeout = LONG
    else:  # a native client names no tenant
        asked.tenant = chance.choices(TENANTS, (5, 10, 4, 1))[0]
        asked.priority = chance.choice(PRIORITIES)
    return asked


class NotedTurn:
    """One that is waited for; ``came`` is told when it has."""

    waits = True

    def __init__(self, turn: Turn, came: Callable[[], None]) -> None:
        self._turn = turn
        self._came = came
        self.leave = turn.leave

    async def wait(self) -> None:
        await self._turn.wait()
        self._came()


class Crowd:
    """Those who ask one fleet, and what came of it."""

    def __init__(self, f: Fleet, client: AsyncClient) -> None:
        self.asked: list[Asked] = []
        self._by_id: dict[RequestId, Asked] = {}
        self._fleet = f
        self._client = client
        self._enter = f.coordinator.turns.enter
        f.coordinator.turns.enter = self._noted  # type: ignore[method-assign, assignment]

    def _noted(self, request: Generate | Infer, spec: ModelSpec, deadline: float) -> Turn | NotedTurn:
        turn = self._enter(request, spec, deadline)
        return NotedTurn(turn, lambda: self._came(request.request_id)) if turn.waits else turn

    def _came(self, request_id: RequestId) -> None:
        if request_id in self._by_id:  # not one of a native client's
            self._by_id[request_id].turn = now()

    async def ask(self, asked: Asked) -> None:
        request_id = RequestId(str(len(self.asked)))
        self.asked.append(asked)
        self._by_id[request_id] = asked
        asked.began = now()
        try:
            async with asyncio.timeout(asked.leaves_after), aclosing(self._parts(asked, request_id)) as parts:
                async for tokens, is_last in parts:
                    asked.tokens += tokens
                    asked.finished += is_last
                    if asked.leaves_at is not None and len(asked.tokens) > asked.leaves_at:
                        asked.end = "left"
                        return
            asked.end = "finished"
        except TimeoutError:
            asked.end = "left"
        except ShoalError as error:
            asked.end = error.code
        finally:
            asked.took = now() - asked.began

    async def _parts(self, asked: Asked, request_id: RequestId) -> AsyncGenerator[tuple[list[int], bool], None]:
        """The tokens of each, and whether it says that it is the last."""
        plane, tenant, priority = self._fleet.coordinator.plane, asked.tenant, asked.priority
        match asked.kind:
            case Kind.GENERATE:
                sampling = Sampling(max_tokens=asked.length)
                prompt = TextPrompt("count")
                request = Generate(request_id, MODEL, prompt, sampling, tenant=tenant, priority=priority)
                async with aclosing(plane.generate(request, timeout=asked.timeout)) as chunks:
                    async for chunk in chunks:
                        yield list(chunk.tokens), chunk.finish_reason is not None
            case Kind.CLIENT:
                async with aclosing(self._client.stream("count", model=MODEL, max_tokens=asked.length)) as chunks:
                    async for chunk in chunks:
                        yield list(chunk.tokens), chunk.finish_reason is not None
            case Kind.WHOLE:
                inputs: dict[str, Any] = {"id": np.arange(asked.length)}
                infer = Infer(request_id, TABLE, inputs, tenant=tenant, priority=priority)
                answer = await plane.infer(infer, timeout=asked.timeout)
                yield answer.outputs["id"].tolist(), answer.last
            case Kind.PARTS:
                inputs = {"parts": np.array([asked.length])}
                infer = Infer(request_id, SERIES, inputs, tenant=tenant, priority=priority)
                async with aclosing(plane.infer_stream(infer, timeout=asked.timeout)) as answers:
                    async for answer in answers:
                        yield answer.outputs["part"].tolist() if answer.outputs else [], answer.last
