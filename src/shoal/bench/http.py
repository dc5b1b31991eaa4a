"""One HTTP connection of a load generator: a request at a time, the time of every part of its answer.

httpx spends about 1 ms of processor time on a request, more than many servers do; a generator that shares the machine
with the server has to be light. Parsing is httptools', as in the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Final, cast
from urllib.parse import SplitResult

import httptools

from shoal.errors import ShoalError

NO_HEADERS: Final[Mapping[str, str]] = {}


class ConnectionBroken(ShoalError):
    """The server closed the connection before the answer's end."""

    code = "connection_broken"


class HttpConnection(asyncio.Protocol):
    """Reconnects by itself when the server has closed it between two requests. ``headers`` go with each of them."""

    def __init__(self, url: SplitResult, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self._url = url
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[None] | None = None
        self.status = 0
        self.body = bytearray()
        #: Of each piece of the body: when it came, on the loop's clock, and how long the body was with it.
        self.parts: list[tuple[float, int]] = []

    async def post(self, path: str, body: bytes, timeout: float) -> int:
        """Returns the status; the body and its times are attributes. Raises OSError, TimeoutError, ConnectionBroken."""
        kept = self._transport is not None
        try:
            return await self._post(path, body, timeout)
        except ConnectionBroken:
            if not kept or self.status:
                raise
        # A server may close a connection that it has kept for long while the next request is on its way.
        return await self._post(path, body, timeout)

    async def _post(self, path: str, body: bytes, timeout: float) -> int:
        if self._transport is None or self._transport.is_closing():
            host, port = self._url.hostname or "", self._url.port or 80
            async with asyncio.timeout(timeout):
                await self._loop.create_connection(lambda: self, host, port)
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.parts = 0, []
        self.body.clear()
        self._done = self._loop.create_future()
        head = f"POST {path} HTTP/1.1\r\nhost: {self._url.netloc}\r\ncontent-type: application/json\r\n{self._headers}"
        self._transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        try:
            async with asyncio.timeout(timeout):
                await self._done
        except BaseException:
            self.close()  # what is left of the answer must not be taken for the next one
            raise
        return self.status

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # -- the transport's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionBroken(f"the answer is no HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionBroken())

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    # -- the parser's

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.body += body
        self.parts.append((perf_counter(), len(self.body)))

    def on_message_complete(self) -> None:
        if self._transport is not None and not self._parser.should_keep_alive():
            self.close()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
