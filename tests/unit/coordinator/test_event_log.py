"""Events with numbers: every reader gets each once, in order, whenever it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.clock import ManualClockLoop, now
from shoal.coordinator.event_log import Event, EventLog
from shoal.coordinator.live_log import LiveLog
from shoal.errors import EventsGone


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(test())


def filled(count: int) -> EventLog[bytes]:
    log = EventLog[bytes](len)
    for number in range(1, count + 1):
        log.append(str(number).encode())
    return log


def test_events_are_numbered_from_one() -> None:
    log = EventLog[bytes](len)
    assert (log.last, list(log.after(0))) == (0, [])
    log.append(b"a")
    log.append(b"b", "state")
    assert list(log.after(0)) == [Event(1, b"a"), Event(2, b"b", "state")]
    assert log.last == 2


def test_a_reader_may_begin_anywhere_and_takes_a_page_at_a_time() -> None:
    log = filled(10)
    assert [event.number for event in log.after(7)] == [8, 9, 10]
    assert [event.number for event in log.after(2, most=3)] == [3, 4, 5]
    assert list(log.after(10)) == []


def test_events_that_were_dropped_are_missed_by_nobody_unnoticed() -> None:
    log = filled(10)
    log.trim(1)
    with pytest.raises(EventsGone, match="before number 2"):
        log.after(0)
    assert log.after(1)[0].number == 2


@pytest.mark.parametrize(("read", "left"), [(0, [1, 2, 3]), (2, [3]), (3, []), (9, [])])
def test_what_all_have_read_can_be_let_go(read: int, left: list[int]) -> None:
    log = filled(3)
    size = log.bytes_used // 3
    for _ in range(2):
        log.release(read)
        assert [event.number for event in log.after(3 - len(left))] == left
        assert log.bytes_used == size * len(left)


def test_a_log_without_events_left_goes_on_counting() -> None:
    log = filled(3)
    log.trim(10**9)
    assert log.bytes_used == 0
    with pytest.raises(EventsGone):
        log.after(2)
    assert list(log.after(3)) == []
    log.append(b"four")
    assert list(log.after(3)) == [Event(4, b"four")]


@given(st.lists(st.binary(max_size=20) | st.integers(1, 1000), max_size=30), st.integers(0, 30))
def test_what_is_left_is_the_newest_and_is_counted(steps: list[bytes | int], seen: int) -> None:
    log = EventLog[bytes](len)
    said: list[bytes] = []
    for step in steps:
        if isinstance(step, int):
            before = log.bytes_used
            log.trim(step)
            assert before - log.bytes_used >= min(step, before)
        else:
            said.append(step)
            log.append(step)
    seen = min(seen, len(said))
    try:
        left = log.after(seen)
    except EventsGone:
        return
    assert [(event.number, event.data) for event in left] == list(enumerate(said, 1))[seen:]


# -- read while it grows


async def read(live: LiveLog[bytes], after: int = 0, idle: float = 1e9) -> list[int]:
    return [event.number async for page in live.follow(after, idle=idle) for event in page]


def test_readers_that_come_early_late_and_in_between_all_get_everything() -> None:
    async def test() -> None:
        live = LiveLog[bytes](len)
        early = asyncio.create_task(read(live))
        await asyncio.sleep(1)
        live.append(b"a")
        between = asyncio.create_task(read(live))
        resumed = asyncio.create_task(read(live, after=1))
        await asyncio.sleep(1)
        live.append(b"b")
        live.append(b"c")
        live.close()
        assert await early == await between == await read(live) == [1, 2, 3]
        assert await resumed == [2, 3]

    run(test)


def test_a_reader_that_leaves_takes_nobody_with_it() -> None:
    async def test() -> None:
        live = LiveLog[bytes](len)
        stays, leaves = asyncio.create_task(read(live)), asyncio.create_task(read(live))
        await asyncio.sleep(1)
        leaves.cancel()
        await asyncio.sleep(1)
        live.append(b"a")
        live.close()
        assert await stays == [1]
        assert leaves.cancelled()

    run(test)


def test_a_reader_hears_that_there_is_nothing_new() -> None:
    async def test() -> None:
        live = LiveLog[bytes](len)
        live.append(b"a")
        pages = live.follow(0, idle=10)
        assert [event.number for event in await anext(pages)] == [1]
        assert [await anext(pages), await anext(pages)] == [(), ()]
        assert now() == 20
        await pages.aclose()

    run(test)


def test_a_slow_reader_takes_pages_and_learns_when_it_was_too_slow() -> None:
    async def test() -> None:
        live = LiveLog[bytes](len)
        for _ in range(300):
            live.append(b"x")
        pages = live.follow(0, idle=10)
        assert len(await anext(pages)) == 256
        live.log.trim(10**9)
        with pytest.raises(EventsGone):
            await anext(pages)

    run(test)
