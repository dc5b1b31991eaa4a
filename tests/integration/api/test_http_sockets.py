"""What only a real connection shows: keep-alive, early refusals, slow and leaving clients."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest

from shoal.api.app import DEFAULT_LIMITS, build_app
from shoal.api.limits import ApiLimits
from shoal.api.listener import Listener
from shoal.api.testing import FakePlane
from shoal.messages import Chunk, Generate
from shoal.types import FinishReason

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 5}
PATH = "/v1/chat/completions"


@asynccontextmanager
async def serve(plane: FakePlane, limits: ApiLimits = DEFAULT_LIMITS) -> AsyncIterator[str]:
    """The application on a real socket; yields its address."""

    def native() -> asyncio.Protocol:
        raise AssertionError("nobody here speaks the native protocol")

    listener = Listener(build_app(plane, metrics=bytes, limits=limits), native, drain_timeout=1)
    address = await listener.start("127.0.0.1", 0)
    try:
        yield address
    finally:
        await listener.stop()


async def connect(address: str) -> Connection:
    host, _, port = address.partition(":")
    return await asyncio.open_connection(host, int(port))


def request(body: bytes, *, length: int | None = None, extra: str = "") -> bytes:
    size = len(body) if length is None else length
    head = f"POST {PATH} HTTP/1.1\r\nhost: shoal\r\ncontent-length: {size}\r\n{extra}\r\n"
    return head.encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, headers and body of an answer that has a content-length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return int(head.split()[1]), head, await asyncio.wait_for(reader.readexactly(length), 10)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_connection_serves_many_requests() -> None:
    async with serve(FakePlane()) as address:
        reader, writer = await connect(address)
        for _ in range(3):
            writer.write(request(msgspec.json.encode(CHAT)))
            assert (await read_answer(reader))[0] == 200
        writer.write(request(b"{}"))
        assert (await read_answer(reader))[0] == 400
        writer.write(request(msgspec.json.encode(CHAT)))
        assert (await read_answer(reader))[0] == 200, "an error does not cost the connection"
        writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_100_mb_is_refused_without_being_kept(chunked: bool) -> None:
    size, part = 100 * 2**20, b" " * 2**20

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(size // len(part)):
            yield part

    headers = {} if chunked else {"content-length": str(size)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serve(FakePlane()) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        answer = await client.post(PATH, content=upload(), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "payload_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


async def test_a_client_that_asks_before_it_sends_is_not_told_to_go_on() -> None:
    async with serve(FakePlane()) as address:
        reader, writer = await connect(address)
        writer.write(request(b"", length=10**9, extra="expect: 100-continue\r\n"))
        status, head, _ = await read_answer(reader)
        assert status == 413
        assert b"connection: close" in head
        writer.close()


async def test_a_body_that_does_not_come_is_408() -> None:
    async with serve(FakePlane(), ApiLimits(body_timeout=0.1)) as address:
        reader, writer = await connect(address)
        writer.write(request(b"{", length=100))
        assert (await read_answer(reader))[0] == 408
        writer.close()


async def chatter(request: Generate) -> AsyncGenerator[Chunk, None]:
    while True:
        await asyncio.sleep(0)
        yield Chunk("x" * 10_000, (1,))


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_ends_the_generation(stream: bool) -> None:
    async def quiet(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("first", (1,))
        await asyncio.Event().wait()
        yield Chunk("never", (2,))

    plane = FakePlane(quiet)
    async with serve(plane) as address:
        _, writer = await connect(address)
        writer.write(request(msgspec.json.encode(CHAT | {"stream": stream})))
        await until(lambda: bool(plane.running))
        writer.close()
        await until(lambda: len(plane.cut) == 1)
        assert not plane.running


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    plane = FakePlane(chatter)
    async with serve(plane, ApiLimits(write_timeout=0.2)) as address:
        _, writer = await connect(address)
        writer.write(request(msgspec.json.encode(CHAT | {"stream": True})))
        await until(lambda: len(plane.cut) == 1)
        assert not plane.running
        writer.transport.abort()


async def test_a_stream_arrives_as_it_is_made() -> None:
    step = asyncio.Event()

    async def stepwise(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("first", (1,))
        await step.wait()
        yield Chunk("second", (2,), (), FinishReason.STOP)

    lines: list[str] = []
    async with (
        asyncio.timeout(10),
        serve(FakePlane(stepwise)) as address,
        httpx.AsyncClient(base_url=f"http://{address}") as client,
        client.stream("POST", PATH, json=CHAT | {"stream": True}) as answer,
    ):
        async for line in answer.aiter_lines():
            lines.append(line)
            if "first" in line:
                step.set()  # only now: a stream that is held back would never end
    assert "second" in lines[-4]
    assert lines[-2] == "data: [DONE]"
