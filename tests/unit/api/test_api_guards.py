"""When the client goes away or takes too long, its work ends at once and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from shoal.aio import Deadline, within
from shoal.api.app import build_app
from shoal.api.guards import GRACE, ClientWatch
from shoal.api.testing import AsgiClient, Call, FakePlane
from shoal.clock import ManualClockLoop
from shoal.errors import Cancelled
from shoal.messages import Chunk, Generate

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}


async def endless(request: Generate) -> AsyncGenerator[Chunk, None]:
    yield Chunk("first", (1,))
    await asyncio.Event().wait()
    yield Chunk("never", (2,))


async def drop(plane: FakePlane, path: str, body: dict[str, Any], *, after_bytes: int) -> Call:
    """Ask, wait until so many bytes of the answer have come (0: until the work began), and leave."""
    client = AsgiClient(build_app(plane, metrics=bytes))
    call = client.call("POST", path, [msgspec.json.encode(body)])
    serving = asyncio.create_task(client.run(call))
    if after_bytes:
        await call.until_body(after_bytes)
    while not (plane.running or plane.inferred):
        await asyncio.sleep(0)
    call.gone.set()
    await asyncio.wait_for(serving, 5)
    return call


def simulated(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(work)


async def nothing_stays_behind() -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("n", [1, 3])
async def test_leaving_a_stream_cancels_every_generation(n: int) -> None:
    plane = FakePlane(endless)
    call = await drop(plane, "/v1/chat/completions", CHAT | {"stream": True, "n": n}, after_bytes=10)
    assert len(plane.cut) == n
    assert not plane.running
    assert not call.ended
    assert await nothing_stays_behind()


@pytest.mark.parametrize("n", [1, 3])
async def test_leaving_before_a_whole_answer_cancels_every_generation(n: int) -> None:
    plane = FakePlane(endless)
    call = await drop(plane, "/v1/chat/completions", CHAT | {"n": n}, after_bytes=0)
    assert len(plane.cut) == n
    assert not plane.running
    assert not call.sent
    assert await nothing_stays_behind()


async def test_leaving_cancels_an_inference() -> None:
    plane = FakePlane()
    plane.hold.clear()
    await drop(plane, "/v1/embeddings", {"model": "minilm", "input": "hi"}, after_bytes=0)
    assert plane.cut == [plane.inferred[0].request_id]
    assert await nothing_stays_behind()


def test_a_client_that_stays_gets_its_answer_however_long_it_takes() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.hold.clear()
        client = AsgiClient(build_app(plane, metrics=bytes))
        asyncio.get_running_loop().call_later(3600, plane.hold.set)
        answer = await client.request("POST", "/v1/embeddings", json={"model": "minilm", "input": "hi"})
        assert answer.status == 200
        assert await nothing_stays_behind()

    simulated(scenario())


def test_a_cancellation_from_outside_passes_through() -> None:
    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def guarded() -> None:
        with ClientWatch(never):
            await asyncio.Event().wait()

    async def scenario() -> None:
        task = asyncio.create_task(guarded())
        await asyncio.sleep(2 * GRACE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await nothing_stays_behind()

    simulated(scenario())


async def test_the_cancellation_of_a_watch_is_taken_back() -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(Cancelled), ClientWatch(gone):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # is not cancelled


class Connection:
    """Tells when the client goes away, as the HTTP server does."""

    def __init__(self) -> None:
        self.told: Callable[[], None] | None = None
        self.is_open = True

    def when_gone(self, told: Callable[[], None] | None) -> bool:
        self.told = told
        return self.is_open

    def leave(self) -> None:
        assert self.told is not None
        self.told()


async def never_asked() -> dict[str, Any]:
    raise AssertionError("what the connection tells need not be asked")


async def test_a_watch_that_the_connection_tells_needs_no_task_and_ends_with_its_block() -> None:
    connection = Connection()
    with ClientWatch(never_asked, connection.when_gone):
        await asyncio.sleep(2 * GRACE)
        assert await nothing_stays_behind()
    assert connection.told is None

    asyncio.get_running_loop().call_soon(connection.leave)
    with pytest.raises(Cancelled), ClientWatch(never_asked, connection.when_gone):
        await asyncio.Event().wait()
    assert connection.told is None


async def test_nothing_is_begun_for_a_client_that_has_gone_already() -> None:
    connection = Connection()
    connection.is_open = False
    with pytest.raises(Cancelled), ClientWatch(never_asked, connection.when_gone):
        raise AssertionError("the block ran")
    await asyncio.sleep(0)  # is not cancelled


async def test_an_error_of_the_work_wins_over_the_leaving_of_the_client() -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def guarded() -> None:
        with ClientWatch(gone):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("mine") from None

    with pytest.raises(ValueError, match="mine"):
        await guarded()


async def test_a_deadline_ends_its_block() -> None:
    with pytest.raises(TimeoutError), Deadline(0.01):
        await asyncio.Event().wait()


async def test_an_inner_deadline_does_not_end_the_outer_block() -> None:
    with Deadline(60):
        with pytest.raises(TimeoutError), Deadline(0.01):
            await asyncio.Event().wait()
        await asyncio.sleep(0)


async def slow(seconds: float, answer: str = "done") -> str:
    await asyncio.sleep(0)
    await asyncio.sleep(seconds)
    return answer


async def test_what_does_not_wait_needs_no_timer() -> None:
    async def at_once() -> str:
        return "done"

    assert await within(0.0, at_once()) == "done"


async def test_what_waits_has_its_time() -> None:
    assert await within(60, slow(0.001)) == "done"
    with pytest.raises(TimeoutError):
        await within(0.01, slow(60))


async def test_what_waits_is_told_of_the_end_of_its_time_and_may_clean_up() -> None:
    told: list[str] = []

    async def careful() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            told.append("cleaned up")

    with pytest.raises(TimeoutError):
        await within(0.01, careful())
    assert told == ["cleaned up"]


async def test_an_error_and_a_cancellation_of_what_waits_pass_through() -> None:
    async def broken() -> None:
        await asyncio.sleep(0)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await within(60, broken())
    task = asyncio.create_task(within(60, slow(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_waits_may_keep_its_answer_when_it_is_interrupted() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except ValueError:
            return "kept"
        return ""

    steps = within(60, stubborn())
    next(steps)
    with pytest.raises(StopIteration) as ended:
        steps.throw(ValueError())
    assert ended.value.value == "kept"
