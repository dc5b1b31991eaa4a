"""The faults of the network in memory. What it has in common with TCP is in the contract, among integration tests."""

from __future__ import annotations

import asyncio

import pytest

from shoal.clock import now
from shoal.errors import WorkerLost
from shoal.rpc import MemoryNetwork
from shoal.rpc.memory import HIGH_WATER


class End(asyncio.Protocol):
    """Remembers what happened to it, and when."""

    def __init__(self) -> None:
        self.received: list[tuple[float, bytes]] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received.append((now(), data))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    @property
    def bytes(self) -> bytes:
        return b"".join(data for _, data in self.received)


async def join(network: MemoryNetwork) -> tuple[End, End]:
    accepted = End()
    await network.listen("b:1", lambda: accepted)
    end = await network.connect("b:1", End, timeout=1)
    await asyncio.sleep(0)
    return end, accepted


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork("a")


async def test_delay_keeps_the_order_and_delays_connecting_as_well(network: MemoryNetwork) -> None:
    faults = network.faults("b")
    faults.delay = 0.25
    a, b = await join(network)
    assert now() == pytest.approx(0.25)
    a.transport.write(b"1")
    faults.delay = 0.0
    a.transport.write(b"2")
    await asyncio.sleep(1)
    assert [data for _, data in b.received] == [b"1", b"2"]
    assert [when for when, _ in b.received] == pytest.approx([0.5, 0.5])


async def test_a_cut_breaks_both_ends_at_once_and_loses_what_was_on_its_way(network: MemoryNetwork) -> None:
    a, b = await join(network)
    a.transport.write(b"gone")
    network.faults("b").cut()
    assert isinstance(await a.lost, ConnectionResetError)
    assert isinstance(await b.lost, ConnectionResetError)
    assert b.received == []
    assert (await network.connect("b:1", End, timeout=1)).transport is not a.transport


async def test_a_partition_tells_nobody_and_a_healed_one_delivers(network: MemoryNetwork) -> None:
    a, b = await join(network)
    network.faults("b").partition()
    a.transport.write(b"late")
    await asyncio.sleep(3600)
    assert b.received == []
    assert not a.lost.done()
    with pytest.raises(WorkerLost, match="did not answer within 2 s"):
        await network.connect("b:1", End, timeout=2)
    network.faults("b").heal()
    await asyncio.sleep(0.001)
    assert b.bytes == b"late"


async def test_the_end_of_a_connection_does_not_get_through_a_partition(network: MemoryNetwork) -> None:
    a, b = await join(network)
    network.faults("b").partition()
    a.transport.write(b"last words")
    a.transport.close()
    assert await a.lost is None
    await asyncio.sleep(3600)
    assert not b.lost.done()
    network.faults("b").heal()
    assert await b.lost is None
    assert b.bytes == b"last words"
    assert network.faults("b").ends == set()


async def test_a_stall_fills_the_pipe_and_still_lets_connect(network: MemoryNetwork) -> None:
    a, _b = await join(network)
    network.faults("b").stall()
    a.transport.write(bytes(HIGH_WATER + 1))
    assert a.paused
    await network.connect("b:1", End, timeout=1)
    network.faults("b").heal()
    await asyncio.sleep(0.001)
    assert not a.paused


async def test_a_refused_connection(network: MemoryNetwork) -> None:
    await join(network)
    network.faults("b").refused = True
    with pytest.raises(WorkerLost, match="refused"):
        await network.connect("b:1", End, timeout=1)


async def test_bytes_can_be_tampered_with(network: MemoryNetwork) -> None:
    a, b = await join(network)
    network.faults("b").tamper = lambda data: data * 2
    a.transport.write(b"twice ")
    network.faults("b").tamper = lambda data: data[:2]
    b.transport.write(b"truncated")
    await asyncio.sleep(0.001)
    assert b.bytes == b"twice twice "
    assert a.bytes == b"tr"


async def test_faults_are_between_two_hosts_and_no_others(network: MemoryNetwork) -> None:
    await join(network)
    network.faults("b").partition()
    end = await network.at("c").connect("b:1", End, timeout=1)
    assert end.transport.get_extra_info("peername") == ("b", 1)
    assert end.transport.get_extra_info("sockname")[0] == "c"
    assert network.at("b").faults("a") is network.faults("b")
    assert network.faults("a", "b") is network.faults("b")


async def test_an_abort_loses_what_was_not_sent(network: MemoryNetwork) -> None:
    a, b = await join(network)
    network.faults("b").stall()
    a.transport.write(bytes(10 * HIGH_WATER))
    a.transport.close()
    await asyncio.sleep(1)
    assert not a.lost.done()  # it waits to be rid of what is in its buffer
    a.transport.abort()
    assert await a.lost is None
    network.faults("b").heal()
    assert await b.lost is None
    assert b.received == []
