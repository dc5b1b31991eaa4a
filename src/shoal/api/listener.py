"""One port for everything: HTTP clients, native clients and workers all connect to the same address.

The native protocol's first byte is zero, which no HTTP request begins with, so the first byte of a connection
decides who serves it. An HTTP connection pays for this with one look at one byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import uvicorn

from shoal.api.http1 import Http
from shoal.api.places import Places
from shoal.errors import ConfigError

NATIVE = 0  # the first byte of the native preface
FIRST_BYTE_TIMEOUT = 30.0  # seconds an accepted connection may stay silent
KEEP_ALIVE = 75  # seconds: above the 60 that balancers hold idle connections, or they meet a closed one
STALLED_READER_TIMEOUT = 60.0  # seconds that a client may leave what was written to it unread
BACKLOG = 2048  # connections the kernel holds for us; the Linux default limit is 4096


class _FirstByte(asyncio.Protocol):
    """Waits for the first bytes of a connection and hands it to the protocol they belong to."""

    def __init__(
        self, places: Places, http: Callable[[], asyncio.Protocol], native: Callable[[], asyncio.Protocol]
    ) -> None:
        self._places = places
        self._http = http
        self._native = native
        self._transport: asyncio.Transport | None = None
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._places.admit(transport):
            self._transport.abort()
            return
        self._silence = asyncio.get_running_loop().call_later(FIRST_BYTE_TIMEOUT, transport.close)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._heard()
        protocol = self._native() if data[0] == NATIVE else self._http()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard()

    def _heard(self) -> None:
        if self._silence is not None:
            self._silence.cancel()


class _Server(uvicorn.Server):
    """Signals are handled by the process, not by its HTTP part."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """Serves an ASGI application and native connections on one address until it is stopped."""

    def __init__(self, app: Any, native: Callable[[], asyncio.Protocol], *, drain_timeout: float) -> None:
        def accept(**uvicorn_state: Any) -> asyncio.Protocol:
            return _FirstByte(self._places, lambda: Http(**uvicorn_state), native)

        config = uvicorn.Config(
            app,
            http=cast(Any, accept),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(drain_timeout)),
        )
        self._server = _Server(config)
        self._places = Places(self._close_an_idle_one)
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> str:
        """Bind and serve. Returns the address as HOST:PORT. Raises :class:`ConfigError` if it is taken."""
        listening = bind(host, port)
        self._task = asyncio.get_running_loop().create_task(self._server.serve([listening]), name="http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise ConfigError(f"could not serve on {host}:{port}")
            await asyncio.sleep(0.005)
        bound = listening.getsockname()
        return f"{host}:{bound[1]}"

    async def stop(self) -> None:
        """Take no more connections, let running requests finish up to the drain timeout, then cut them."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    def _close_an_idle_one(self) -> bool:
        """A client may find a kept connection closed at any time, and asks on a new one then."""
        kept = cast(Iterable[Http], self._server.server_state.connections)
        idle = next((connection for connection in kept if connection.is_idle), None)
        if idle is not None:
            idle.transport.close()
        return idle is not None


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is an error before anything else starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections inherit it. Without it the kernel keeps trying for a quarter of an hour.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED_READER_TIMEOUT * 1000))
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listening
