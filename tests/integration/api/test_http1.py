"""What is refused before it is a request, and requests that ask for another protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from shoal.api import http1, listener
from shoal.api.asgi import DIRECT
from shoal.api.http1 import MAX_HEADER_BYTES, MAX_HEADERS
from shoal.api.listener import Listener

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body it was sent."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    length = str(len(body) + 2).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": b"<%s>" % body})


@asynccontextmanager
async def connected(app: Any = echo) -> AsyncIterator[Connection]:
    listener = Listener(app, asyncio.Protocol, drain_timeout=1)
    host, _, port = (await listener.start("127.0.0.1", 0)).partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        await listener.stop()


async def ask(connection: Connection, request: bytes) -> bytes:
    """What comes until the server ends the connection."""
    reader, writer = connection
    writer.write(request)
    async with asyncio.timeout(10):
        return await reader.read()


def error_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), msgspec.json.decode(body)["error"]["code"]


@pytest.mark.parametrize(
    "head",
    [
        GET + b"x-a: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
        GET + b"x-a: " + b"a" * 4 * 2**20,
        b"GET /" + b"a" * 4 * 2**20,
        GET + b"a: b\r\n" * MAX_HEADERS + b"\r\n",
        GET + b"a: b\r\n" * 200_000,
    ],
    ids=["one just over the limit", "one without end", "a path without end", "too many", "many without end"],
)
async def test_headers_over_the_limit_are_431(head: bytes) -> None:
    async with connected() as connection:
        assert error_of(await ask(connection, head)) == (431, "request_headers_too_large")


async def test_headers_below_the_limit_are_read_and_a_large_body_in_the_same_read_is_none_of_them() -> None:
    headers = b"a: b\r\n" * (MAX_HEADERS - 4) + b"x-a: " + b"a" * (MAX_HEADER_BYTES - 2000)
    body = b"b" * 2**20
    async with connected() as connection:
        answer = await ask(connection, POST + headers + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert answer.endswith(b"<" + body + b">")


@pytest.mark.parametrize("line", [b"a: b\r\n", b"a: " + b"b" * 1000 + b"\r\n"])
async def test_trailers_without_end_are_431(line: bytes) -> None:
    trailers = line * (4 * 2**20 // len(line))
    async with connected() as connection:
        answer = await ask(connection, POST + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + trailers)
    assert error_of(answer) == (431, "request_headers_too_large")


async def test_a_broken_body_is_400() -> None:
    async with connected() as connection:
        answer = await ask(connection, POST + b"transfer-encoding: chunked\r\n\r\nnonsense\r\n")
    assert error_of(answer) == (400, "invalid_request")


async def test_nonsense_behind_a_request_does_not_cost_its_answer() -> None:
    async with connected() as connection:
        assert (await ask(connection, GET + b"\r\nnonsense\r\n\r\n")).endswith(b"<>")


@pytest.mark.parametrize(
    "request_", [GET + b"host: y\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
async def test_what_is_no_valid_request_is_400_in_the_shape_of_every_error(request_: bytes) -> None:
    async with connected() as connection:
        assert error_of(await ask(connection, request_)) == (400, "invalid_request")


@pytest.mark.parametrize(
    "name",
    [
        "host",
        "x-tenant",
        "x-priority",
        "x-deadline-ms",
        "idempotency-key",
        "last-event-id",
        "x-shard-key",
        "inference-header-content-length",
    ],
)
async def test_who_is_told_two_things_does_not_choose(name: str) -> None:
    two = f"{name}: a\r\n".encode() * 2
    async with connected() as connection:
        answer = await ask(connection, GET + two + b"\r\n")
    assert error_of(answer) == (400, "invalid_request")
    assert f"{name} may be given once".encode() in answer


async def test_http_1_0_needs_no_host() -> None:
    async with connected() as connection:
        assert (await ask(connection, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"<>")


@pytest.mark.parametrize("pieces", [1, 1000])
@pytest.mark.parametrize(
    "framing", [b"content-length: 5\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
async def test_a_wish_for_http2_is_ignored_and_the_body_is_kept(pieces: int, framing: bytes) -> None:
    wish = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    request = b"POST / HTTP/1.1\r\nhost: x\r\n" + wish + framing
    async with connected() as (reader, writer):
        for _ in range(2):  # on one connection
            for at in range(0, len(request), -(-len(request) // pieces)):
                writer.write(request[at : at + -(-len(request) // pieces)])
                await asyncio.sleep(0)
            assert (await asyncio.wait_for(reader.readuntil(b">"), 5)).endswith(b"<hello>")


async def test_connect_is_refused() -> None:
    async with connected() as connection:
        answer = await ask(connection, b"CONNECT other:80 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert error_of(answer) == (405, "method_not_allowed")


@pytest.mark.parametrize("first", [b"", GET + b"\r\n"])
async def test_blank_lines_do_not_keep_a_connection(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEADER_TIMEOUT", 0.3)
    monkeypatch.setattr(listener, "KEEP_ALIVE", 0.3)
    async with connected() as (reader, writer):
        writer.write(first)
        end = asyncio.ensure_future(reader.read())
        async with asyncio.timeout(5):
            while not end.done():
                writer.write(b"\r\n")
                await asyncio.sleep(0.05)


async def test_the_end_of_an_answer_does_not_hurry_the_request_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "KEEP_ALIVE", 0.1)
    async with connected() as (reader, writer):
        writer.write(GET + b"content-length: 1\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"a" + GET)  # half of the next one comes while the first is answered
        await reader.readuntil(b"<a>")
        writer.write(b"content-length: 1\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"b")
        assert (await asyncio.wait_for(reader.readuntil(b">"), 5)).endswith(b"<b>")


async def at_once(scope: Any, receive: Any, send: Any) -> None:
    """Answers as the application does, where the server lets it."""
    sent = scope["extensions"][DIRECT].answer(200, b"content-length: 2\r\n", b"<>")
    if not sent:
        await echo(scope, receive, send)


async def test_an_answer_in_one_piece_keeps_the_connection_and_those_behind_it() -> None:
    async with connected(at_once) as connection:
        request = b"GET / HTTP/1.1\r\nhost: a\r\n"
        answers = await ask(connection, (request + b"\r\n") * 3 + request + b"connection: close\r\n\r\n")
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == 4
        assert answers.count(b"<>") == 4
        assert answers.count(b"date: ") == 4


async def test_what_has_no_body_is_left_to_the_server() -> None:
    async with connected(at_once) as connection:
        answers = await ask(connection, b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"<>" not in answers


@pytest.mark.parametrize("size", [0, 200_000], ids=["no body", "a body at which the server stops reading"])
async def test_who_waits_for_a_client_is_told_once_when_it_goes_away(size: int) -> None:
    told: list[str] = []
    heard = asyncio.Event()
    began = asyncio.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        def gone() -> None:
            told.append(scope["path"])
            heard.set()

        while (await receive())["more_body"]:
            pass
        assert scope["extensions"][DIRECT].call_when_gone(gone)
        began.set()
        await heard.wait()

    async with connected(waiting) as (_, writer):
        writer.write(b"POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        await asyncio.wait_for(began.wait(), 10)
        writer.close()
        await asyncio.wait_for(heard.wait(), 10)
    assert told == ["/slow"]


async def test_who_has_answered_is_not_told_and_who_begins_too_late_is_told_so() -> None:
    told: list[bool] = []
    over = asyncio.Event()

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        when_gone = scope["extensions"][DIRECT].call_when_gone
        when_gone(lambda: told.append(True))
        when_gone(None)
        await at_once(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass
        await asyncio.sleep(0)
        over.set()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.append(scope["extensions"][DIRECT].call_when_gone(lambda: told.append(True)))
        over.set()

    for app in (answering, late):
        over.clear()
        async with connected(app) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0)
            writer.close()
            await asyncio.wait_for(over.wait(), 10)
    assert told == [False]
