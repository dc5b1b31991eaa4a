"""The thread that an engine is used from."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from shoal.worker.generation.engine_thread import EngineThread


async def test_work_is_done_in_order_in_one_other_thread() -> None:
    thread = EngineThread()
    numbers: list[int] = []

    def note(number: int) -> int:
        numbers.append(number)
        return threading.get_ident()

    work = [thread.run(partial(note, number)) for number in range(3)]
    where = {await each for each in work}

    assert numbers == [0, 1, 2]
    assert len(where) == 1
    assert where != {threading.get_ident()}
    thread.close()


async def test_what_work_raises_is_raised_and_the_next_is_done() -> None:
    thread = EngineThread()

    def fail() -> None:
        raise ValueError("no")

    failed, done = thread.run(fail), thread.run(lambda: 1)

    with pytest.raises(ValueError, match="no"):
        await failed
    assert await done == 1
    thread.close()


async def test_work_that_was_given_before_it_is_closed_is_done() -> None:
    thread = EngineThread()
    begin = threading.Event()
    waits, last = thread.run(begin.wait), thread.run(lambda: "last")

    thread.close()
    begin.set()

    assert await waits
    assert await last == "last"


async def test_nobody_has_to_wait_for_work() -> None:
    thread = EngineThread()
    begin = threading.Event()
    left = thread.run(begin.wait)

    left.cancel()
    begin.set()

    assert await thread.run(lambda: 1) == 1
    thread.close()
