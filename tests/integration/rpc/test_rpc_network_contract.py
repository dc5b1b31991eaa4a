"""What every network promises, in memory and over TCP."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from shoal.errors import ConfigError, WorkerLost
from shoal.rpc import MemoryNetwork, Network, TcpNetwork

ANY_PORT = "127.0.0.1:0"
PATIENCE = 10  # seconds, for what takes milliseconds


class End(asyncio.Protocol):
    """One end of a connection that remembers what happened to it."""

    def __init__(self) -> None:
        self.made = asyncio.Event()
        self.heard = asyncio.Event()
        self.lost = asyncio.Event()
        self.received = bytearray()
        self.error: Exception | None = None
        self.paused = asyncio.Event()
        self.resumed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.heard.set()

    def pause_writing(self) -> None:
        self.paused.set()

    def resume_writing(self) -> None:
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.lost.set()


class Listening:
    def __init__(self) -> None:
        self.accepted: list[End] = []

    def __call__(self) -> End:
        self.accepted.append(End())
        return self.accepted[-1]


@pytest.fixture(params=["memory", "tcp"])
def network(request: pytest.FixtureRequest) -> Network:
    return MemoryNetwork() if request.param == "memory" else TcpNetwork()


async def join(network: Network) -> tuple[End, End]:
    listening = Listening()
    listener = await network.listen(ANY_PORT, listening)
    end = await network.connect(listener.address, End, timeout=PATIENCE)
    while not listening.accepted:
        await asyncio.sleep(0)
    await listening.accepted[0].made.wait()
    listener.close()
    return end, listening.accepted[0]


async def leave(*ends: End) -> None:
    for end in ends:
        end.transport.close()
    for end in ends:
        await end.lost.wait()


async def receive(end: End, size: int) -> None:
    while len(end.received) < size:
        end.heard.clear()
        await end.heard.wait()


async def test_port_0_becomes_a_real_one(network: Network) -> None:
    first, second = await network.listen(ANY_PORT, End), await network.listen(ANY_PORT, End)
    assert first.address.startswith("127.0.0.1:")
    assert not first.address.endswith(":0")
    assert first.address != second.address
    first.close()
    second.close()


async def test_an_address_in_use_is_refused(network: Network) -> None:
    listener = await network.listen(ANY_PORT, End)
    with pytest.raises(ConfigError, match=f"cannot listen on {listener.address}"):
        await network.listen(listener.address, End)
    listener.close()


async def test_nobody_listens(network: Network) -> None:
    listener = await network.listen(ANY_PORT, End)
    listener.close()
    await asyncio.sleep(0.01)
    with pytest.raises(WorkerLost, match=f"cannot connect to {listener.address}"):
        await network.connect(listener.address, End, timeout=PATIENCE)


async def test_bytes_arrive_in_order_both_ways(network: Network) -> None:
    a, b = await join(network)
    for number in range(1000):
        a.transport.write(b"%d," % number)
        b.transport.write(b"%d;" % number)
    wanted = b"".join(b"%d," % number for number in range(1000))
    await receive(a, len(wanted))
    await receive(b, len(wanted))
    assert b.received == wanted
    assert a.received == wanted.replace(b",", b";")
    await leave(a, b)


async def test_a_memoryview_can_be_written(network: Network) -> None:
    a, b = await join(network)
    a.transport.write(memoryview(b"abc"))
    await receive(b, 3)
    assert b.received == b"abc"
    await leave(a, b)


async def test_a_writer_is_paused_while_the_reader_reads_nothing(network: Network) -> None:
    a, b = await join(network)
    b.transport.pause_reading()
    size = 0
    while not a.paused.is_set():
        a.transport.write(bytes(1 << 20))
        size += 1 << 20
        await asyncio.sleep(0)
        assert size < 100 << 20
    assert a.transport.get_write_buffer_size() > 0
    assert not a.resumed.is_set()
    b.transport.resume_reading()
    await a.resumed.wait()
    await receive(b, size)
    await leave(a, b)


async def test_what_was_written_before_close_arrives_and_then_both_ends_know(network: Network) -> None:
    a, b = await join(network)
    a.transport.write(bytes(5 << 20))
    a.transport.close()
    assert a.transport.is_closing()
    await b.lost.wait()
    await a.lost.wait()
    assert len(b.received) == 5 << 20
    assert (a.error, b.error) == (None, None)


async def test_abort_is_noticed_by_both_ends(network: Network) -> None:
    a, b = await join(network)
    a.transport.abort()
    await a.lost.wait()
    await b.lost.wait()


async def test_connections_outlive_their_listener(network: Network) -> None:
    a, b = await join(network)  # which closes the listener
    a.transport.write(b"x")
    await receive(b, 1)
    await leave(a, b)


async def test_each_end_knows_the_address_of_the_other(network: Network) -> None:
    a, b = await join(network)
    assert a.transport.get_extra_info("peername")[:2] == b.transport.get_extra_info("sockname")[:2]
    assert b.transport.get_extra_info("peername")[:2] == a.transport.get_extra_info("sockname")[:2]
    await leave(a, b)


async def test_the_protocol_of_a_transport_can_be_replaced(network: Network) -> None:
    a, b = await join(network)
    replacement = End()
    b.transport.set_protocol(replacement)
    a.transport.write(b"x")
    await receive(replacement, 1)
    a.transport.close()
    await replacement.lost.wait()
    assert not b.lost.is_set()
    await a.lost.wait()
