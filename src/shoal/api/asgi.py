"""One HTTP request and its one answer, over bare ASGI.

No framework: under uvicorn a bare callable answers 33k small requests a second on one core, Starlette's stack 7k.
Every wait on the client has a deadline: for its body, for its reading of the answer, and for its goodbye.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from shoal.aio import within
from shoal.api.addresses import is_among
from shoal.api.guards import ClientWatch
from shoal.api.limits import ApiLimits
from shoal.api.memory import BodyMemory
from shoal.coordinator.observation import watch_source
from shoal.errors import Cancelled, Forbidden, InvalidRequest, PayloadTooLarge, RequestTimeout
from shoal.messages import Generate, Infer

Scope = MutableMapping[str, Any]
AsgiMessage = Mapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
Header = tuple[bytes, bytes]
R = TypeVar("R", Generate, Infer)

JSON = b"application/json"
MAX_PRIORITY = 100
NO_CONTENT = 204
#: An extension of ASGI: who calls in this process keeps the whole answer beside the events of a stream, and gets it in
#: a message of this type.
WHOLE = "shoal.whole"
#: Another: the request's :class:`Direct`.
DIRECT = "shoal.direct"
LINGER = 5.0  # seconds to take and drop the rest of a body whose answer is already known

_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")
_DIGITS = re.compile(rb"[0-9]{1,15}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TENANT = re.compile(rb"[A-Za-z0-9._:@/-]{1,64}")
_PRIORITY = re.compile(rb"-?[0-9]{1,3}")
_STREAM_HEADERS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events otherwise
]


def _random_ids() -> Iterator[str]:
    """Not to be guessed. Many are drawn at a time, for each draw is a system call."""
    while True:
        drawn = secrets.token_hex(256 * 16)
        yield from (drawn[at : at + 32] for at in range(0, len(drawn), 32))


new_request_id: Callable[[], str] = _random_ids().__next__


class Direct(Protocol):
    """What a server may have beside ASGI, for requests and answers that are small."""

    headers: Mapping[bytes, bytes]

    def take_body(self) -> bytes | None:
        """All of it, if it has come."""

    def answer(self, status: int, lines: bytes, body: bytes) -> bool:
        """Send a whole answer in one write; ``lines`` are its headers. False: nothing was done, it is not plain."""
        ...

    def call_when_gone(self, gone: Callable[[], None] | None) -> bool:
        """Call this once the client goes away, until it is None. False: it has gone already."""
        ...


class Exchange:
    """A request as handlers see it, and the only way to answer it.

    The answer is either one :meth:`answer`, or any number of :meth:`send_events` and one :meth:`end_events`; before
    the last, :meth:`keep_whole` where ``keeps_whole``.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limits: ApiLimits, memory: BodyMemory | None = None
    ) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.client: str = (scope.get("client") or ("", 0))[0]  # its address; empty where the server cannot say
        self.server: str = (scope.get("server") or ("", 0))[0]  # this side's address
        self.parameters: Mapping[str, str] = {}  # of the path
        self.limits = limits
        extensions: Mapping[str, Any] = scope.get("extensions", {})
        self.keeps_whole: bool = WHOLE in extensions
        self._direct: Direct | None = extensions.get(DIRECT)
        self.status = 0  # that was answered; 0: none yet
        self.failed = False  # it was answered with an error, which is not kept: its frames hold this and the whole body
        self._headers: Mapping[bytes, bytes] = dict(scope["headers"]) if self._direct is None else self._direct.headers
        self._receive = receive
        self._asgi_send = send
        self._memory = memory or BodyMemory(limits.all_bodies_bytes)
        self._held = 0  # bytes of that memory
        self._body_read = False
        self._closed = False  # the answer is complete, or the client does not read it
        given = self._headers.get(b"x-request-id", b"")
        self.source = watch_source()  # before it is answered: how the answer came about
        trace = self._headers.get(b"traceparent", b"")
        self.trace = trace.decode() if trace and _TRACEPARENT.fullmatch(trace) else ""  # of the span this belongs to
        self.request_id = given.decode() if given and _REQUEST_ID.fullmatch(given) else new_request_id()

    @property
    def timeout(self) -> float | None:
        """Seconds the client gives this request, from ``x-deadline-ms``. Raises :class:`InvalidRequest`."""
        given = self._headers.get(b"x-deadline-ms")
        if given is None:
            return None
        seconds = int(given) / 1000 if _DIGITS.fullmatch(given) else 0.0
        if not 0 < seconds <= self.limits.deadline:
            most = round(self.limits.deadline * 1000)
            raise InvalidRequest(f"x-deadline-ms must be a whole number from 1 to {most}", param="x-deadline-ms")
        return seconds

    @property
    def started(self) -> bool:
        """Is the status sent?"""
        return self.status != 0

    @property
    def priority(self) -> int:
        """How urgent the request is beside others, from ``x-priority``. Raises :class:`InvalidRequest`."""
        given = self._headers.get(b"x-priority")
        if given is None:
            return 0
        if not _PRIORITY.fullmatch(given) or abs(int(given)) > MAX_PRIORITY:
            message = f"x-priority must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}"
            raise InvalidRequest(message, param="x-priority")
        return int(given)

    @property
    def tenant(self) -> str:
        """Who asks, as a trusted proxy says in ``x-tenant``. From anybody else it is refused and not ignored: whoever
        sends it counts on being kept apart. Raises :class:`InvalidRequest`, :class:`Forbidden`."""
        given = self._headers.get(b"x-tenant")
        if given is None:
            return ""
        if not is_among(self.client, self.limits.trusted_proxies):
            raise Forbidden("x-tenant is taken from proxies in coordinator.trusted_proxies alone", param="x-tenant")
        if not _TENANT.fullmatch(given):
            message = "x-tenant has 1 to 64 letters, digits and . _ : @ / - characters"
            raise InvalidRequest(message, param="x-tenant")
        return given.decode()

    def stamp(self, request: R) -> R:
        """The request with what its headers say of it. Raises :class:`InvalidRequest`."""
        return msgspec.structs.replace(request, trace=self.trace, priority=self.priority, tenant=self.tenant)

    def header(self, name: bytes) -> bytes | None:
        return self._headers.get(name)

    async def read_body(self, *, limit: int | None = None, lead: int = 0) -> bytes:
        """The whole body, behind ``lead`` zero bytes. ``limit``: what it may have, if not as much as other bodies.

        Raises :class:`PayloadTooLarge` as soon as it is known to be, :class:`Overloaded` when too much is held for
        others, :class:`RequestTimeout`, and :class:`Cancelled` when the client goes away.
        """
        limit = limit or self.limits.body_bytes
        declared = self._headers.get(b"content-length", b"0")
        if not _DIGITS.fullmatch(declared) or int(declared) > limit:
            raise _too_large(limit)
        if self._direct is not None and not self._body_read and (whole := self._direct.take_body()) is not None:
            self._body_read = True
            self._take_in(len(whole), len(whole), limit)
            return bytes(lead) + whole if lead else whole
        # A large body has the time that the rate demanded of a small one gives it.
        seconds = self.limits.body_timeout * max(1, int(declared) / self.limits.body_bytes)
        try:
            return await within(seconds, self._body(limit, lead))
        except TimeoutError:
            raise RequestTimeout(f"the request body did not arrive within {seconds:g} s") from None

    async def _body(self, limit: int, lead: int) -> bytes:
        parts = [bytes(lead)] if lead else []
        size = 0
        while not self._body_read:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("the client went away")
            self._body_read = not message.get("more_body", False)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._take_in(len(parts[-1]), size, limit)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take_in(self, part: int, size: int, limit: int) -> None:
        """A part of so many bytes has come, and of the body so many in all."""
        if size > limit:
            raise _too_large(limit)
        self.hold(part)

    def hold(self, size: int) -> None:
        """Count this many bytes as held for this request, until :meth:`release`. Raises :class:`Overloaded`."""
        self._memory.take(size)
        self._held += size

    def release(self) -> None:
        """The request has ended."""
        self._memory.give_back(self._held)
        self._held = 0

    def client_watch(self) -> ClientWatch:
        """Guards a block that works for the client; enter it after the body was read."""
        return ClientWatch(self._receive, None if self._direct is None else self._direct.call_when_gone)

    async def answer(
        self,
        status: int,
        body: bytes,
        *,
        rest: Sequence[memoryview] = (),
        content_type: bytes = JSON,
        headers: Sequence[Header] = (),
    ) -> None:
        """Send the one whole answer: ``body``, and behind it ``rest``, which is not copied."""
        unread = self._has_unread_body()
        if not rest and not unread and self._direct is not None and not self._closed:
            lines = b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body))
            lines += b"".join(b"%b: %b\r\n" % header for header in self._complete([*headers]))
            self.status = status
            if self._direct.answer(status, lines, body):
                self._closed = True
                return
        size = len(body) + sum(piece.nbytes for piece in rest)
        described = [(b"content-type", content_type), (b"content-length", b"%d" % size)]
        fixed = [] if status == NO_CONTENT else described
        closing = [(b"connection", b"close")] if unread else []
        pieces: list[bytes | memoryview] = [body, *rest]
        try:
            await self._start(status, [*fixed, *closing, *headers])
            for piece in pieces[:-1]:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            if unread:
                await self._send({"type": "http.response.body", "body": pieces[-1], "more_body": True})
                await self._linger()
                pieces.append(b"")
            await self._send({"type": "http.response.body", "body": pieces[-1]})
        finally:
            self._closed = True  # half an answer cannot be turned into another one

    async def send_events(self, events: bytes) -> None:
        """Send server-sent events; the first call begins the answer, so errors before it have a status."""
        if not self.started:
            await self._start(200, [*_STREAM_HEADERS])
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end_events(self, events: bytes) -> None:
        """Send the last events and end the answer."""
        if not self.started:
            await self._start(200, [*_STREAM_HEADERS])
        await self._send({"type": "http.response.body", "body": events})
        self._closed = True

    async def keep_whole(self, status: int, body: bytes) -> None:
        """What the whole answer would have been, for who keeps both."""
        await self._asgi_send({"type": WHOLE, "status": status, "body": body})

    def _has_unread_body(self) -> bool:
        if self._body_read:
            return False
        return self._headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self._headers

    async def _linger(self) -> None:
        """Drop what the client still sends. Closing at once would reset the connection, and many clients would
        then meet the reset before they read the answer that says why."""
        try:
            await within(LINGER, self._dropped())
        except TimeoutError:
            return

    async def _dropped(self) -> None:
        while (message := await self._receive())["type"] == "http.request":
            if not message.get("more_body", False):
                return

    async def _start(self, status: int, headers: list[Header]) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": self._complete(headers)})

    def _complete(self, headers: list[Header]) -> list[Header]:
        headers.append((b"x-request-id", self.request_id.encode()))
        if self.source.cache:
            headers.append((b"x-cache", self.source.cache.encode()))
        if self.source.fallback:
            headers.append((b"x-fallback", self.source.fallback.encode()))
        return headers

    async def _send(self, message: dict[str, Any]) -> None:
        """Raises :class:`Cancelled` when the client does not read. A closed answer takes nothing more."""
        if self._closed:
            return
        try:
            await within(self.limits.write_timeout, self._asgi_send(message))
        except TimeoutError:
            self._closed = True
            raise Cancelled("the client stopped reading the answer") from None


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body is larger than {limit} bytes")
