"""The response cache before the dispatcher: what is kept is not computed again, what is being computed is shared.

Both are for requests with only one right answer, unless the model's configuration says otherwise, and never cross
tenants: the tenant is in the key.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple, Protocol

from shoal.clock import now
from shoal.coordinator.disk_tier import DiskTier
from shoal.coordinator.flight import Flight
from shoal.coordinator.observation import Observation, is_last
from shoal.coordinator.response_codec import (
    decode_answers,
    encode_answers,
    is_deterministic,
    model_prefix,
    request_key,
    size_of,
    spec_prefix,
)
from shoal.errors import ShoalError
from shoal.kvstore import Key, MemoryStore
from shoal.messages import Answer, Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec
from shoal.telemetry import ResponseCacheMetrics, TierSize
from shoal.types import ModelId

logger = logging.getLogger(__name__)

MAX_ANSWER: Final = 2**20  # bytes; a larger one is neither kept nor shared with those who come later


class Dispatches(Protocol):
    async def infer(self, request: Infer, spec: ModelSpec, deadline: float, observation: Observation) -> Inferred: ...

    def answer(
        self, request: Generate | Infer, spec: ModelSpec, deadline: float, observation: Observation
    ) -> AsyncGenerator[Answer, None]: ...


def stands_in(answer: Answer) -> bool:
    """Did another model answer than the one that was asked?"""
    return isinstance(answer, Chunk | Inferred) and answer.fallback != ""


class Asked(NamedTuple):
    """One request on its way, as workers get it."""

    key: Key  # empty: neither look nor keep nor share
    request: Generate | Infer
    spec: ModelSpec
    deadline: float  # on the loop's clock
    observation: Observation


class Responses:
    """``disk`` is started and closed here."""

    def __init__(
        self,
        dispatcher: Dispatches,
        *,
        max_entries: int,
        max_bytes: int,
        metrics: ResponseCacheMetrics,
        disk: DiskTier | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._memory = MemoryStore(max_entries=max_entries, max_bytes=max_bytes, clock=now)
        self._disk = disk
        self._metrics = metrics
        self._flights: dict[Key, Flight] = {}
        self._prefixes: dict[int, tuple[ModelSpec, bytes]] = {}  # by identity, for hashing a specification takes long
        self._clearing: set[asyncio.Task[None]] = set()  # some of those that run
        self._unread: set[bytes] = set()  # beginnings of keys that the disk has yet to clear
        self._era = 0  # what began before the last :meth:`forget` is not kept
        self._running: set[asyncio.Task[None]] = set()  # not aio.Tasks: a flight tells its readers what went wrong
        metrics.sizes = self._sizes
        if disk is not None:
            metrics.dropped_writes = lambda: disk.dropped

    def start(self) -> None:
        if self._disk is not None:
            self._disk.start()

    async def close(self) -> None:
        """End what runs, and see to it that what was forgotten is."""
        for flight in self._running - self._clearing:
            flight.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._disk is not None:
            await self._disk.close()

    def key(self, request: Generate | Infer, spec: ModelSpec) -> Key | None:
        """``request`` is as it was asked, before a seed is filled in. None: neither look nor keep nor share."""
        cache = spec.settings.cache
        if cache is None and not spec.settings.coalesce:
            return None
        if not is_deterministic(request) and not (cache is not None and cache.any_request):
            return None
        return request_key(request, self._prefix(spec))

    def infer(self, asked: Asked) -> Coroutine[Any, Any, Inferred]:
        """The one answer of a tensor model, or its first part. Raises :class:`ShoalError`."""
        key, request, spec, deadline, observation = asked
        assert isinstance(request, Infer)
        if key:
            return self._kept_or_computed(asked, request)
        return self._dispatcher.infer(request, spec, deadline, observation)

    async def _kept_or_computed(self, asked: Asked, request: Infer) -> Inferred:
        kept = self._found(asked)
        if kept is None:
            answer = await self._compute_once(asked, request)
        else:
            async with aclosing(kept):
                answer = await anext(kept)  # what has no parts is not kept
        assert isinstance(answer, Inferred)
        return answer

    def answer(self, asked: Asked) -> AsyncGenerator[Answer, None]:
        """In parts. Raises :class:`ShoalError`."""
        key, request, spec, deadline, observation = asked
        if not key:
            return self._dispatcher.answer(request, spec, deadline, observation)
        return self._found(asked) or self._compute(asked)

    def forget(self, model: ModelId) -> asyncio.Future[None]:
        """Drop every answer of a version: kept, being written, and being computed. From now on none is served.

        What is returned is done when a restart does not bring them back either.
        """
        prefix = model_prefix(model)
        self._era += 1
        self._memory.clear(prefix)
        self._prefixes = {key: known for key, known in self._prefixes.items() if known[0].id != model}
        for key in [key for key in self._flights if key.startswith(prefix)]:
            del self._flights[key]  # its readers read on; nobody joins
        self._unread.add(prefix)
        task = self._own(self._clear_disk(prefix), name=f"forget {model}")
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
        return task

    async def _clear_disk(self, prefix: bytes) -> None:
        try:
            if self._disk is not None:
                await self._disk.clear(prefix)
        except OSError as error:  # then it stays unread, as long as this process lives
            logger.error("the response cache on disk keeps old answers: %s", error, extra={"action": "forget_failed"})
        else:
            self._unread.discard(prefix)

    def _own(self, coroutine: Coroutine[None, None, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    # -- kept

    def _found(self, asked: Asked) -> AsyncGenerator[Answer, None] | None:
        """What was kept, or may be; what turns out not to be is computed."""
        if asked.spec.settings.cache is None:
            return None
        if (found := self._memory.get(asked.key)) is not None:
            return self._kept(found.value, "memory", asked)
        disk = self._disk
        if disk is not None and disk.may_hold(asked.key) and not asked.key.startswith(tuple(self._unread)):
            return self._from_disk(disk, asked)
        return None

    async def _from_disk(self, disk: DiskTier, asked: Asked) -> AsyncGenerator[Answer, None]:
        era = self._era
        found = await disk.get(asked.key)
        if found is None or era != self._era:
            rest = self._compute(asked)
        else:
            self._memory.set(asked.key, found.value, ttl=found.ttl)
            rest = self._kept(found.value, "disk", asked)
        async with aclosing(rest) as answers:
            async for answer in answers:
                yield answer

    async def _kept(self, value: bytes, tier: str, asked: Asked) -> AsyncGenerator[Answer, None]:
        try:
            kept = decode_answers(value)
        except ShoalError as error:
            logger.warning("%s", error.message, extra={"action": "response_cache_unreadable"})
            self._memory.delete(asked.key)
            async with aclosing(self._compute(asked)) as answers:
                async for answer in answers:
                    yield answer
            return
        self._metrics.hit(asked.spec.name, tier)
        asked.observation.found("hit")
        for part in kept:
            yield part

    # -- computed

    def _compute(self, asked: Asked) -> AsyncGenerator[Answer, None]:
        flight = self._joined(asked, in_parts=True)
        if flight is not None:
            return flight.follow(asked.deadline)
        return self._begin(asked).follow(asked.deadline) if asked.spec.settings.coalesce else self._recorded(asked)

    async def _compute_once(self, asked: Asked, request: Infer) -> Answer:
        _, _, spec, deadline, observation = asked
        flight = self._joined(asked, in_parts=False)
        if flight is None and spec.settings.coalesce:
            flight = self._begin(asked, once=request)
        if flight is not None:
            return await flight.first(deadline)
        era = self._era
        answer = await self._dispatcher.infer(request, spec, deadline, observation)
        if answer.last and size_of(answer) <= MAX_ANSWER:
            self._keep(asked, [answer], era)
        return answer

    def _joined(self, asked: Asked, *, in_parts: bool) -> Flight | None:
        """A run that this request may share, if there is one. Who wants all parts needs one that gets them."""
        flight = self._flights.get(asked.key)
        if flight is not None and asked.deadline <= flight.deadline and (flight.has_parts or not in_parts):
            self._metrics.coalesced(asked.spec.name)
            asked.observation.found("coalesced")
            return flight
        self._metrics.missed(asked.spec.name)
        asked.observation.found("miss")
        return None

    def _begin(self, asked: Asked, *, once: Infer | None = None) -> Flight:
        """The run gets twice the time of the request that begins it, so that others with as much time may join.

        ``once``: the same request, of which the one answer is enough.
        """
        key, request, spec, deadline, observation = asked
        later = deadline + (deadline - now())
        era = self._era

        def ended(flight: Flight, answers: Sequence[Answer] | None) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if answers is not None:
                self._keep(asked, answers, era)

        dispatch = self._dispatcher
        if once is None:
            in_parts = functools.partial(dispatch.answer, request, spec, later, observation)
            flight = Flight(in_parts, deadline=later, limit=MAX_ANSWER, ended=ended)
        else:
            whole = functools.partial(dispatch.infer, once, spec, later, observation)
            flight = Flight(run_once=whole, deadline=later, limit=MAX_ANSWER, ended=ended)
        self._flights[key] = flight
        flight.task = self._own(flight.fly(), name=request.request_id)
        return flight

    async def _recorded(self, asked: Asked) -> AsyncGenerator[Answer, None]:
        _, request, spec, deadline, observation = asked
        era, size = self._era, 0
        record: list[Answer] = []
        answers = self._dispatcher.answer(request, spec, deadline, observation)
        try:  # what aclosing does, for half of the time
            async for answer in answers:
                size += size_of(answer)
                if size > MAX_ANSWER:
                    record.clear()
                else:
                    record.append(answer)
                    if is_last(answer):
                        self._keep(asked, record, era)  # before it is sent on: nobody has to ask whether there is more
                yield answer
        finally:
            await answers.aclose()

    def _keep(self, asked: Asked, answers: Sequence[Answer], era: int) -> None:
        cache = asked.spec.settings.cache
        if cache is None or era != self._era or any(map(stands_in, answers)):
            return
        value = encode_answers(answers)
        self._memory.set(asked.key, value, ttl=cache.ttl)
        if self._disk is not None:
            self._disk.put(asked.key, value, cache.ttl)

    def _prefix(self, spec: ModelSpec) -> bytes:
        known = self._prefixes.get(id(spec))
        if known is None:
            known = self._prefixes[id(spec)] = spec, spec_prefix(spec)
        return known[1]

    def _sizes(self) -> list[TierSize]:
        memory = self._memory
        sizes = [TierSize("memory", len(memory), memory.bytes_used, memory.stats.evictions)]
        return sizes if self._disk is None else [*sizes, self._disk.size]
