"""One request on a connection, from the end of its headers to the end of its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from shoal.api.asgi import DIRECT

if TYPE_CHECKING:
    from shoal.api.http1 import Http

COPIED: Final = 64 * 1024  # bytes: a larger body is written behind its head, uncopied
BODILESS: Final = (204, 304)


class Cycle(RequestResponseCycle):
    """What the application reads and answers with: as ASGI has it, and as :class:`~shoal.api.asgi.Direct`, which is all
    that a small request needs. What only ASGI's way needs is made when it is asked for."""

    logger = access_logger = logging.getLogger("uvicorn.error")
    access_log = False
    disconnected = False
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    more_body = True

    def __init__(self, http: Http, headers: Mapping[bytes, bytes], *, keep_alive: bool) -> None:
        self.headers = headers
        self.scope = http.scope
        self.scope["extensions"] = {DIRECT: cast(Any, self)}
        self.transport = http.transport
        self.flow = http.flow
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = headers.get(b"expect", b"").lower() == b"100-continue"
        self.body = bytearray()
        self.on_response = self._end
        self._http = http
        self._event: asyncio.Event | None = None
        self._has_news = False  # for an event that there is not yet

    # -- for the connection

    def take_in(self, body: bytes) -> None:
        self.body += body
        self._tell()

    def end_body(self) -> None:
        self.more_body = False
        self._tell()

    def _tell(self) -> None:
        self._has_news = True
        if self._event is not None:
            self._event.set()

    def _end(self) -> None:
        self.scope.pop("extensions")  # else only the collector of garbage would find that nobody needs this any more
        self._http.on_response_complete()

    # -- for the application

    def take_body(self) -> bytes | None:
        if self.more_body or self.disconnected:
            return None
        body, self.body = bytes(self.body), bytearray()
        self._has_news = False
        if self._event is not None:
            self._event.clear()
        return body

    def answer(self, status: int, lines: bytes, body: bytes) -> bool:
        if self.response_started or self.disconnected or self.flow.write_paused or not self.keep_alive:
            return False
        if len(body) > COPIED or status in BODILESS or self.scope["method"] == "HEAD":
            return False
        self.transport.write(b"%b%b%b\r\n%b" % (STATUS_LINE[status], self._http.default_lines(), lines, body))
        self.response_started = self.response_complete = True
        self._tell()
        self.on_response()
        return True

    def call_when_gone(self, gone: Callable[[], None] | None) -> bool:
        """Requests of one connection are answered one after another, so there is never more than one to tell."""
        is_here = not self.transport.is_closing()
        if gone is not None and is_here:
            self.flow.resume_reading()  # who does not read does not notice; behind a large body uvicorn had stopped
        self._http.gone = gone if is_here else None
        return is_here

    # -- for uvicorn

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        return self._http.server_state.default_headers

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        if self._event is None:
            self._event = asyncio.Event()
            if self._has_news:
                self._event.set()
        return self._event
