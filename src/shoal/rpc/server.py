"""The side that is called: takes connections and owns them until they end."""

from __future__ import annotations

import asyncio

from shoal.rpc.connection import Connection
from shoal.rpc.events import Hello
from shoal.rpc.inbound import Handler
from shoal.rpc.keepalive import Keepalive
from shoal.rpc.limits import Unfinished
from shoal.rpc.network import Listener, Network


class _Refusal(asyncio.Protocol):
    """Hangs up on whoever calls after the end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Server:
    """Serves ``handler`` on every connection it takes, from addresses it listens on or through :meth:`accept`."""

    def __init__(
        self,
        *,
        hello: Hello,
        handler: Handler,
        keepalive: Keepalive | None = Keepalive(),  # noqa: B008  (it is frozen)
    ) -> None:
        self.connections: set[Connection] = set()
        self._hello = hello
        self._handler = handler
        self._keepalive = keepalive
        self._unfinished = Unfinished()  # of all connections together
        self._listeners: list[Listener] = []
        self._closed = False

    async def listen(self, network: Network, address: str) -> str:
        """Take calls; returns the real address. Raises :class:`ConfigError` when it cannot be had."""
        listener = await network.listen(address, self.accept)
        self._listeners.append(listener)
        return listener.address

    def accept(self) -> asyncio.Protocol:
        """The protocol for a connection that was just taken: a port shared with HTTP calls this itself."""
        if self._closed:
            return _Refusal()
        connection = Connection(
            hello=self._hello,
            handler=self._handler,
            keepalive=self._keepalive,
            unfinished=self._unfinished,
            on_closed=self.connections.discard,
        )
        self.connections.add(connection)
        return connection

    def stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def close(self, reason: str = "the server stops") -> None:
        """Stop listening, end every connection with ``reason``, and wait until all is over."""
        self._closed = True
        self.stop_listening()
        await asyncio.gather(*(connection.close(reason) for connection in self.connections))
