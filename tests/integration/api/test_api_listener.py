"""One port for HTTP and native connections, and none that may be held for nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shoal.api import http1
from shoal.api import listener as module
from shoal.api.listener import Listener
from shoal.errors import ConfigError


class Native(asyncio.Protocol):
    """Answers every byte string with itself in capitals."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    listener = Listener(app, Native, drain_timeout=1)
    address = await listener.start("127.0.0.1", 0)
    try:
        yield int(address.rpartition(":")[2])
    finally:
        await listener.stop()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        return await reader.read()


async def test_the_first_byte_decides_who_serves_a_connection() -> None:
    async with listening() as port:
        async with connected(port) as (reader, writer):
            writer.write(b"\x00shoal")
            assert await reader.read(100) == b"\x00SHOAL"
        async with connected(port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await until_closed(reader)).endswith(b"ok")


async def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BYTE_TIMEOUT", 0.1)
    async with listening() as port, connected(port) as (reader, _):
        assert await until_closed(reader) == b""


async def test_headers_that_never_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEADER_TIMEOUT", 0.1)
    async with listening() as port, connected(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")
        assert await until_closed(reader) == b""


async def test_a_request_after_a_pause_is_served_on_the_same_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEADER_TIMEOUT", 0.05)
    async with listening() as port, connected(port) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.1)  # longer than headers may take


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    async with listening() as port:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await Listener(app, Native, drain_timeout=1).start("127.0.0.1", port)


async def test_where_descriptors_are_short_kept_connections_give_way_and_busy_ones_stay() -> None:
    listener = Listener(app, Native, drain_timeout=1)
    port = int((await listener.start("127.0.0.1", 0)).rpartition(":")[2])
    try:
        async with connected(port) as (kept, ask), connected(port) as (busy, native):
            ask.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await kept.readuntil(b"ok")
            native.write(b"\x00shoal")
            await busy.read(100)
            listener._places._full, listener._places._bounded = 0, True
            async with connected(port) as (reader, writer):
                assert await until_closed(kept) == b""
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
                async with connected(port) as (refused, _):
                    with contextlib.suppress(ConnectionError):
                        assert await until_closed(refused) == b""
                writer.write(b"\r\n")
                await reader.readuntil(b"ok")
            native.write(b"\x00still")
            assert await busy.read(100) == b"\x00STILL"
    finally:
        await listener.stop()
