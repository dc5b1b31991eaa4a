"""The edge to the network: a narrow interface, and TCP behind it. :mod:`shoal.rpc.memory` has its twin."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol, TypeVar

from shoal.errors import ConfigError, WorkerLost

P = TypeVar("P", bound=asyncio.Protocol)


class Listener(Protocol):
    """Takes calls at ``address`` until it is closed. Connections that it took live on."""

    address: str

    def close(self) -> None: ...


class Network(Protocol):
    """Byte streams between addresses of the form ``HOST:PORT``."""

    async def connect(self, address: str, protocol_factory: Callable[[], P], timeout: float) -> P:
        """Connect, within ``timeout`` seconds; returns the protocol. Raises :class:`WorkerLost`."""

    async def listen(self, address: str, protocol_factory: Callable[[], asyncio.Protocol]) -> Listener:
        """Take calls. Port 0 means any free one; the listener's address has the real one.

        Raises :class:`ConfigError` when the address cannot be had.
        """


def split_address(address: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[HOST]:PORT``, the latter for IPv6. Raises :class:`ConfigError`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{address!r} is not of the form HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class TcpNetwork:
    """TCP. asyncio and uvloop set TCP_NODELAY on every connection by themselves."""

    async def connect(self, address: str, protocol_factory: Callable[[], P], timeout: float) -> P:
        host, port = split_address(address)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, protocol = await loop.create_connection(protocol_factory, host, port)
        except TimeoutError as error:
            raise WorkerLost(f"{address} did not answer within {timeout} s") from error
        except OSError as error:
            # asyncio's own text repeats the address as Python writes it.
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
            raise WorkerLost(f"cannot connect to {address}: {why}") from error
        return protocol

    async def listen(self, address: str, protocol_factory: Callable[[], asyncio.Protocol]) -> Listener:
        host, port = split_address(address)
        try:
            server = await asyncio.get_running_loop().create_server(protocol_factory, host, port)
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error
        return _TcpListener(server, host)


class _TcpListener:
    def __init__(self, server: asyncio.Server, host: str) -> None:
        self._server = server
        self.address = join_address(host, server.sockets[0].getsockname()[1])

    def close(self) -> None:
        self._server.close()
