"""Ways to a connection: dial once, stay connected, adopt a socket that is connected already."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from shoal.aio import Tasks
from shoal.errors import ShoalError
from shoal.rpc.connection import Connection
from shoal.rpc.events import Hello
from shoal.rpc.inbound import Handler
from shoal.rpc.keepalive import Keepalive
from shoal.rpc.network import Network

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 5.0  # seconds for the network, and again for the handshake
FIRST_DELAY: Final = 0.05  # seconds before the second attempt
MAX_DELAY: Final = 2.0  # seconds: what a restarted neighbour waits at most to be found again

OnConnected: TypeAlias = Callable[[Connection], Coroutine[Any, Any, None]]


async def connect(
    network: Network,
    address: str,
    *,
    hello: Hello,
    handler: Handler | None = None,
    timeout: float = CONNECT_TIMEOUT,
    keepalive: Keepalive | None = Keepalive(),  # noqa: B008  (it is frozen)
) -> Connection:
    """Dial once; returns a connection that is ready. ``timeout`` in seconds is for all of it.

    Raises :class:`WorkerLost`, :class:`DeadlineExceeded` or :class:`ProtocolError`.
    """

    def make() -> Connection:
        return Connection(hello=hello, handler=handler, dials=True, keepalive=keepalive)

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    connection = await network.connect(address, make, timeout)
    try:
        await connection.ready(deadline - loop.time())
    except BaseException:
        await connection.close("the handshake did not succeed")
        raise
    return connection


async def adopt(
    connected: socket.socket,
    *,
    hello: Hello,
    handler: Handler | None = None,
    keepalive: Keepalive | None = None,
) -> Connection:
    """Take over a connected socket, such as one end of a socket pair. Await ``ready`` before asking anything.

    Of a pair nobody dialled the engine takes the part of the accepting side; the other end must not be one. There
    is no handshake timeout, for a process may take long to start; whoever started it watches it.
    """
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        return Connection(
            hello=hello, handler=handler, dials=hello.role != "engine", keepalive=keepalive, handshake_timeout=None
        )

    connected.setblocking(False)
    if connected.family == socket.AF_UNIX:
        _, connection = await loop.create_unix_connection(make, sock=connected)
    else:
        _, connection = await loop.create_connection(make, sock=connected)
    return connection


def retry_delay(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row. ``chance`` in [0, 1) spreads a fleet that lost one peer.

    Doubles up to :data:`MAX_DELAY`; at least half of it is kept, so that nobody hammers.
    """
    ceiling = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))
    return ceiling * (0.5 + chance / 2)


class Dialer:
    """Keeps one connection to ``address`` alive until closed, whichever side starts first or restarts.

    ``on_connected(connection)`` runs once for each connection as soon as it is ready, and is cancelled when the
    connection ends; when it raises, the connection is closed and dialled anew.
    """

    def __init__(
        self,
        network: Network,
        address: str,
        *,
        hello: Hello,
        handler: Handler | None = None,
        on_connected: OnConnected | None = None,
        keepalive: Keepalive | None = Keepalive(),  # noqa: B008  (it is frozen)
    ) -> None:
        self.address = address
        self.connection: Connection | None = None  # while there is one that is ready
        self._network = network
        self._hello = hello
        self._handler = handler
        self._on_connected = on_connected or _do_nothing
        self._keepalive = keepalive
        self._tasks = Tasks()

    def start(self) -> None:
        self._tasks.start(self._keep(), name=f"dial {self.address}")

    async def close(self) -> None:
        """Stop dialling and close the connection."""
        await self._tasks.close()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                await self._connect_once()
            except ShoalError as error:
                extra = {"action": "dial_failed", "address": self.address, "failures": failures}
                logger.log(logging.DEBUG if failures else logging.INFO, "%s", error, extra=extra)
            except Exception:
                # A mistake in the program's part of the work; the peer may well be there again for the next try.
                logger.exception("the work on a connection failed", extra={"action": "on_connected_failed"})
            # A peer that takes calls and hangs up at once is no better than one that takes none.
            failures = 1 if loop.time() - began > MAX_DELAY else failures + 1
            await asyncio.sleep(retry_delay(failures, random.random()))

    async def _connect_once(self) -> None:
        """One connection from its beginning to its end."""
        connection = await connect(
            self._network, self.address, hello=self._hello, handler=self._handler, keepalive=self._keepalive
        )
        extra = {"action": "connected", "address": self.address}
        logger.info("connected to %s", connection.name, extra=extra)
        self.connection = connection
        try:
            await self._accompany(connection)
        finally:
            self.connection = None
            await connection.close("the dialer is done with it")

    async def _accompany(self, connection: Connection) -> None:
        work = asyncio.ensure_future(self._on_connected(connection))
        end = asyncio.ensure_future(connection.wait_closed())
        try:
            await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                await end
        finally:
            work.cancel()
            end.cancel()
            await asyncio.gather(work, end, return_exceptions=True)


async def _do_nothing(_connection: Connection) -> None:
    return
