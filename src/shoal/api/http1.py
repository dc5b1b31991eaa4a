"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before and around a body, and no upgrades."""

from __future__ import annotations

import asyncio
import http
import secrets
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shoal.api.asgi import JSON, LINGER, Header
from shoal.api.cycle import Cycle
from shoal.api.errors import error_body, retry_headers
from shoal.errors import HeadersTooLarge, InvalidRequest, MethodNotAllowed, ShoalError

HEADER_TIMEOUT = 30.0  # seconds
#: Which of two is meant nobody can tell, and a proxy may have checked the other one.
ONCE = (
    b"host",
    b"x-tenant",
    b"x-priority",
    b"x-deadline-ms",
    b"idempotency-key",
    b"last-event-id",
    b"x-shard-key",
    b"inference-header-content-length",
)
MAX_HEADERS = 100  # Apache's number; browsers send about 20
MAX_HEADER_BYTES = 64 * 1024  # Node has 16 KiB, nginx 32: cookies and tokens of single sign-on fit


class Http(HttpToolsProtocol):
    """What is refused here never reaches the application: it is no request yet."""

    _deadline: asyncio.TimerHandle | None = None  # for the headers; once refused, for the client's goodbye
    _in_head = False  # has a request begun whose headers are not whole?
    _read = 0  # bytes that came last
    _framing = 0  # bytes that came and were neither a whole head nor any of a body
    _refused = False
    _answered = 0.0  # when the last answer ended, on the loop's clock
    _defaults: Sequence[Header] = ()  # as they were when
    _default_lines = b""  # these were made of them
    cycle: Cycle
    gone: Callable[[], None] | None = None  # to be called when the client goes away

    @property
    def is_idle(self) -> bool:
        """Was everything answered that was asked, and is nothing being asked?"""
        answered = bool(self.cycle) and self.cycle.response_complete
        return answered and not self._in_head and not self.transport.is_closing()

    # -- from the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = True
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._read = len(data)
        self._framing += self._read
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            reason = error.__context__  # what a callback raised
            invalid = InvalidRequest("this is not a valid HTTP/1.1 request")
            self._refuse(reason if isinstance(reason, ShoalError) else invalid)
        else:
            if self._framing > MAX_HEADER_BYTES or (self.headers and len(self.headers) > MAX_HEADERS):
                self._refuse(_too_large())
            elif self._in_head and self._deadline is None:  # most heads come whole, and need no timer
                self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_ended()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if self.gone is not None:
            self.gone()

    # -- from the parser

    def on_message_begin(self) -> None:
        self._framing = 0
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._read + self._framing > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            self._check_size()
        self._framing = 0
        parser = self.parser
        if parser.should_upgrade():
            return  # the same headers come again
        headers, version = dict(self.headers), parser.get_http_version()
        self._check_names(headers, version)
        self._headers_ended()
        self.scope["method"] = parser.get_method().decode()
        self.scope["http_version"] = version
        self._locate()
        is_next = bool(self.cycle) and not self.cycle.response_complete
        self.cycle = cycle = Cycle(self, headers, keep_alive=version != "1.0" and parser.should_keep_alive())
        if is_next:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            self._start_asgi_task(cycle, self.app)

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        if not self.cycle.response_complete:
            self.cycle.take_in(body)
            if len(self.cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade() and not self.cycle.response_complete:
            self.cycle.end_body()

    # -- from uvicorn and the requests

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._answered = self.loop.time()
        if self.timeout_keep_alive_task is None:  # one is enough for many requests: it looks when the last was answered
            self._look_in(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self.is_idle:
            left = self._answered + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._look_in(left)
            else:
                self.transport.close()

    def default_lines(self) -> bytes:
        """The headers of every answer, which change once a second."""
        defaults = self.server_state.default_headers
        if defaults is not self._defaults:
            self._defaults = defaults
            self._default_lines = b"".join(b"%b: %b\r\n" % header for header in defaults)
        return self._default_lines

    def _look_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _locate(self) -> None:
        """Where the request goes."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""

    # -- rules

    def _check_size(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        if size > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            raise _too_large()

    def _check_names(self, headers: Mapping[bytes, bytes], version: str) -> None:
        if len(headers) < len(self.headers):
            names = [name for name, _ in self.headers]
            for name in ONCE:
                if names.count(name) > 1:
                    raise InvalidRequest(f"{name.decode()} may be given once", param=name.decode())
        if version == "1.1" and b"host" not in headers:
            raise InvalidRequest("an HTTP/1.1 request has a Host header", param="host")

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Read the request once more without its wish, which a server may ignore (RFC 9110, section 7.8).

        The parser leaves a message that asks for another protocol at the end of its headers, body or not.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(MethodNotAllowed("this server is no proxy: it does not answer to CONNECT"))
            return
        lines = [b"%s %s HTTP/%s\r\n" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([*lines, b"\r\n", rest]))

    def _await_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_TIMEOUT, self.transport.close)

    def _headers_ended(self) -> None:
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, error: ShoalError) -> None:
        """Read nothing more; answer with the error where an answer is due."""
        self._refused = True
        self._headers_ended()
        if bool(self.cycle) and not self.cycle.response_complete:
            if not self.cycle.more_body:
                self.cycle.keep_alive = False  # nonsense behind a whole request, which gets its answer
                return
            if self.cycle.response_started or self.pipeline:
                self.transport.close()
                return
            self.cycle.disconnected = True  # the application hears no more of this request, and sends nothing
            self.cycle.message_event.set()
        self.transport.write(_refusal(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # What still comes is dropped: closing at once would reset the connection before the answer is read.
        self._deadline = self.loop.call_later(LINGER, self.transport.close)


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"a request may have {MAX_HEADERS} headers and {MAX_HEADER_BYTES} bytes before its body")


def _refusal(error: ShoalError) -> bytes:
    """A whole answer in OpenAI's shape: where its headers are in doubt a request has no surface."""
    request_id = secrets.token_hex(16)
    body = error_body("/", error, request_id)
    headers = [
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode()),
        *retry_headers(error),
    ]
    status = http.HTTPStatus(error.status)
    head = b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    return head + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body
