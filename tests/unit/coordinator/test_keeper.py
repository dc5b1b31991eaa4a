"""Answers that go on without their clients: for how long, how many, and for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shoal.clock import ManualClockLoop, now
from shoal.config import KeepConfig
from shoal.coordinator.keeper import Keeper
from shoal.coordinator.kept_answer import KeptAnswer
from shoal.errors import Conflict, Draining, EngineFailed, EventsGone, Overloaded, ShoalError
from shoal.telemetry import KeptMetrics

Answer = KeptAnswer[bytes]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On a clock that jumps; no task is left behind."""

    async def whole() -> None:
        await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(whole())


class Kept:
    """A keeper, and what it counts."""

    def __init__(self, **config: Any) -> None:
        self.registry = CollectorRegistry()
        self.keeper = Keeper(KeepConfig(**config), KeptMetrics(self.registry))

    def begin(
        self, *, name: str = "", key: str = "", digest: bytes = b"", parts: int = 5, error: Exception | None = None
    ) -> Answer:
        """One part a second."""
        answer = Answer("me", len, name=name, key=key, digest=digest)

        async def make() -> bool:
            for part in range(parts):
                await asyncio.sleep(1)
                self.keeper.add(answer, b"%d" % part)
            if error is not None:
                raise error
            return True

        self.keeper.begin(answer, make, name="test")
        return answer

    async def read(self, answer: Answer, *, after: int = 0, most: int = 100) -> bytes:
        read: list[bytes] = []
        async with aclosing(self.keeper.read(answer, after)) as pages:
            async for page in pages:
                read += (event.data for event in page)
                if len(read) >= most:
                    break
        return b"".join(read)

    def found(self, answer: Answer) -> bool:
        return self.keeper.find(answer.id, "me") is answer

    def count(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"shoal_kept_answers{name}", labels)


def test_who_comes_back_gets_the_rest_and_nothing_twice() -> None:
    async def test() -> None:
        kept = Kept(grace=10)
        answer = kept.begin(name="n")
        assert await kept.read(answer, most=2) == b"01"
        await asyncio.sleep(1.5)
        assert await kept.read(answer, after=2) == b"234"
        assert now() == 5, "it went on meanwhile"
        assert await kept.read(answer, after=4) == b"4"
        await kept.keeper.close()

    run(test)


def test_without_a_reader_it_goes_on_for_the_grace_period_and_no_longer() -> None:
    async def test() -> None:
        kept = Kept(grace=10)
        answer = kept.begin(name="n", parts=100)
        await kept.read(answer, most=2)
        await asyncio.sleep(9.9)
        await kept.read(answer, after=2, most=1)
        await asyncio.sleep(9.9)
        assert (kept.found(answer), answer.ended) == (True, False), "each time anew"
        await asyncio.sleep(0.2)
        assert (kept.found(answer), answer.ended) == (False, True)
        assert 20 <= answer.parts.log.last <= 22
        assert kept.count("_abandoned_total") == 1
        await kept.keeper.close()

    run(test)


def test_what_nobody_can_ask_for_ends_with_its_last_reader() -> None:
    async def test() -> None:
        kept = Kept(grace=10)
        answer = kept.begin(parts=100)
        readers = [asyncio.create_task(kept.read(answer, most=count)) for count in (2, 3)]
        await asyncio.gather(*readers)
        await asyncio.sleep(0.1)
        assert answer.ended
        assert answer.parts.log.last == 3

    run(test)


def test_a_finished_one_is_kept_for_the_grace_period_or_for_its_keys_time() -> None:
    async def test() -> None:
        kept = Kept(grace=10, ttl=100)
        stream, keyed = kept.begin(name="n"), kept.begin(key="k")
        await asyncio.gather(kept.read(stream), kept.read(keyed))
        await asyncio.sleep(9.9)
        assert (kept.found(stream), kept.found(keyed)) == (True, True)
        await asyncio.sleep(0.2)
        assert (kept.found(stream), kept.found(keyed)) == (False, True)
        assert kept.count("") == 1, "room is given back without anybody asking"
        await asyncio.sleep(90)
        assert (kept.count(""), kept.count("_bytes")) == (0, 0)

    run(test)


def test_a_key_leads_to_its_answer_and_only_for_the_same_request() -> None:
    async def test() -> None:
        kept = Kept()
        answer = kept.begin(key="k", digest=b"1")
        assert kept.keeper.with_key("k", b"1") is answer
        assert kept.keeper.with_key("other", b"1") is None
        with pytest.raises(Conflict):
            kept.keeper.with_key("k", b"2")
        assert await kept.read(answer) == await kept.read(answer) == b"01234"
        assert kept.keeper.with_key("k", b"1") is answer
        await kept.keeper.close()

    run(test)


def test_an_answer_is_found_by_its_own_scope_alone() -> None:
    async def test() -> None:
        kept = Kept()
        answer = kept.begin(name="n")
        assert kept.keeper.find("n", "me") is answer
        assert kept.keeper.find("n", "you") is None
        with pytest.raises(Conflict):
            kept.begin(name="n")
        assert kept.keeper.find("n", "me") is answer
        await kept.keeper.close()

    run(test)


@pytest.mark.parametrize("error", [EngineFailed("broken"), ValueError("a mistake")])
def test_a_failure_frees_the_key_and_is_what_a_stream_ends_with(error: Exception) -> None:
    async def test() -> None:
        kept = Kept()
        unnamed, named = kept.begin(key="a", error=error), kept.begin(name="n", key="b", error=error)
        assert [await kept.read(unnamed), await kept.read(named)] == [b"01234", b"01234"]
        assert kept.keeper.with_key("a", b"") is kept.keeper.with_key("b", b"") is None
        assert (kept.found(unnamed), kept.found(named)) == (False, True)
        assert await kept.read(named, after=3) == b"34"
        assert isinstance(named.error, ShoalError)
        await kept.keeper.close()

    run(test)


def test_beyond_the_bound_one_more_is_refused_and_a_finished_one_makes_room() -> None:
    async def test() -> None:
        kept = Kept(max_answers=4)
        first, _ = kept.begin(key="a"), kept.begin(key="b", parts=9)
        with pytest.raises(Overloaded):
            kept.begin(key="c")
        kept.begin(name="n")  # these have a half of their own
        await kept.read(first)
        kept.begin(key="c")
        assert not kept.found(first)
        await kept.keeper.close()

    run(test)


def test_one_that_is_too_large_reaches_its_readers_and_is_kept_no_longer() -> None:
    async def test() -> None:
        kept = Kept(max_bytes=2000, grace=10)
        answer = kept.begin(name="n", parts=20)
        assert await kept.read(answer) == b"".join(b"%d" % part for part in range(20))
        assert not kept.found(answer)
        assert kept.count("_dropped_total") == 1
        assert kept.count("_bytes") == 0
        assert answer.size == 0, "what all have read is let go"
        with pytest.raises(EventsGone):
            await kept.read(answer)

    run(test)


def test_one_that_is_too_large_has_no_grace() -> None:
    async def test() -> None:
        kept = Kept(max_bytes=2000, grace=10)
        answer = kept.begin(name="n", parts=1000)
        await kept.read(answer, most=20)
        await asyncio.sleep(0.1)
        assert answer.ended
        assert answer.parts.log.last == 20

    run(test)


def test_a_keeper_that_leaves_waits_for_readers_and_not_for_those_who_may_come_back() -> None:
    async def test() -> None:
        kept = Kept(grace=10)
        unread, read, left = kept.begin(name="n"), kept.begin(name="m"), kept.begin(name="l")
        reading = asyncio.create_task(kept.read(read))
        leaving = asyncio.create_task(kept.read(left, most=3))
        await kept.read(unread, most=2)
        kept.keeper.leave()
        assert await leaving == b"012"
        assert await reading == b"01234"
        assert (unread.parts.log.last, left.parts.log.last) == (2, 3)
        await kept.keeper.close()

    run(test)


def test_closing_ends_what_runs_and_tells_the_readers_even_before_its_first_step() -> None:
    async def test() -> None:
        kept = Kept()
        answer = kept.begin(name="n")
        reading = asyncio.create_task(kept.read(answer))
        fresh = kept.begin(name="m")
        await kept.keeper.close()
        assert await reading == b""
        assert isinstance(answer.error, Draining)
        assert fresh.ended

    run(test)
