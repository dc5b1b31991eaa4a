"""A connection without a socket, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from shoal.api.asgi import DIRECT
from shoal.api.http1 import Http
from shoal.clock import ManualClockLoop, now

KEEP_ALIVE = 75
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n"

App = Callable[[Any, Any, Any], Awaitable[None]]


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed: float | None = None  # when it was

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 9000) if name in {"peername", "sockname"} else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed is not None

    def close(self) -> None:
        self.closed = now()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def connected(app: App) -> tuple[Http, Transport]:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
    )
    config.load()
    connection, transport = Http(config, ServerState(), {}), Transport()
    connection.connection_made(transport)
    return connection, transport


def simulated(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(run())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def answering(scope: Any, receive: Any, send: Any) -> None:
    assert scope["extensions"][DIRECT].answer(200, b"content-length: 2\r\n", b"ok")


def test_a_connection_is_kept_for_so_long_behind_its_last_answer() -> None:
    async def scenario() -> None:
        connection, transport = connected(answering)
        last = 0.0
        for pause in (0, 50, 50, 74):
            await asyncio.sleep(pause)
            last = now()
            connection.data_received(GET)
            await turns()
        assert transport.written.count(b"HTTP/1.1 200 OK") == 4
        assert transport.closed is None
        await asyncio.sleep(10 * KEEP_ALIVE)
        assert transport.closed == last + KEEP_ALIVE

    simulated(scenario)


def test_a_request_that_takes_longer_than_a_connection_is_kept_is_answered_and_keeps_it() -> None:
    async def scenario() -> None:
        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(3 * KEEP_ALIVE)
            await answering(scope, receive, send)

        connection, transport = connected(slow)
        for _ in range(2):
            connection.data_received(GET)
            await asyncio.sleep(3.5 * KEEP_ALIVE)
            assert transport.written.endswith(b"ok")
            assert transport.closed is None
        await asyncio.sleep(KEEP_ALIVE)
        assert transport.closed == 2 * 3.5 * KEEP_ALIVE - 0.5 * KEEP_ALIVE + KEEP_ALIVE

    simulated(scenario)


def test_a_body_is_taken_whole_or_read_in_parts_and_never_twice() -> None:
    async def scenario() -> None:
        seen: list[object] = []

        async def reading(scope: Any, receive: Any, send: Any) -> None:
            direct = scope["extensions"][DIRECT]
            await asyncio.sleep(1)
            taken = direct.take_body()
            seen.append(taken)
            if taken is None:
                for _ in range(2):
                    message = await receive()
                    seen.append((message["body"], message["more_body"]))
            seen.append(await receive())

        for parts in ([POST + b"abcd"], [POST + b"ab", b"cd"]):
            connection, _ = connected(reading)
            for part in parts:
                connection.data_received(part)
                await asyncio.sleep(2)
            connection.connection_lost(None)
            await turns()
        gone = {"type": "http.disconnect"}
        assert seen == [b"abcd", gone, None, (b"ab", True), (b"cd", False), gone]

    simulated(scenario)


def test_requests_behind_one_another_are_answered_in_their_order() -> None:
    async def scenario() -> None:
        async def echo(scope: Any, receive: Any, send: Any) -> None:
            body = scope["extensions"][DIRECT].take_body()
            await asyncio.sleep(1)
            assert scope["extensions"][DIRECT].answer(200, b"content-length: 4\r\n", body)

        connection, transport = connected(echo)
        connection.data_received(POST + b"aaaa" + POST + b"bbbb" + POST + b"cccc")
        await asyncio.sleep(5)
        assert [answer[-4:] for answer in transport.written.split(b"HTTP/1.1 200 OK")[1:]] == [
            b"aaaa",
            b"bbbb",
            b"cccc",
        ]

    simulated(scenario)
