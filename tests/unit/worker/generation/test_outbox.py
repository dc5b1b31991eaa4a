from __future__ import annotations

import asyncio

import pytest

from shoal.errors import EngineFailed
from shoal.messages import Chunk
from shoal.types import FinishReason, TokenLogprob, Usage
from shoal.worker.generation.outbox import Outbox


async def test_what_came_since_the_last_look_is_one_chunk() -> None:
    outbox = Outbox()
    logprobs = (TokenLogprob(1, b"a", -0.5),)
    outbox.put(Chunk("a", (1,), logprobs))
    outbox.put(Chunk("", (2,)))
    outbox.put(Chunk("bc", (3,), (), FinishReason.STOP, Usage(1, 3)))
    assert await outbox.take() == Chunk("abc", (1, 2, 3), logprobs, FinishReason.STOP, Usage(1, 3))


async def test_taking_waits_until_something_comes() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.put(Chunk("a", (1,)))
    assert (await taking).text == "a"
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    taking.cancel()


async def test_an_error_comes_after_what_was_said_and_stays() -> None:
    outbox = Outbox()
    outbox.put(Chunk("a", (1,)))
    outbox.fail(EngineFailed("broken"))
    assert (await outbox.take()).text == "a"
    for _ in range(2):
        with pytest.raises(EngineFailed):
            await outbox.take()
