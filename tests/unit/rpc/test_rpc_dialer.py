from __future__ import annotations

import asyncio
import logging

import pytest

from shoal.clock import now
from shoal.errors import DeadlineExceeded, Overloaded, ProtocolError, WorkerLost
from shoal.messages import Ack, ListModels, Message
from shoal.rpc import Call, Connection, Dialer, Hello, Keepalive, MemoryNetwork, Server, connect
from shoal.rpc.dialer import MAX_DELAY, retry_delay

COORDINATOR, WORKER = Hello("coordinator", "c1"), Hello("worker", "w1")
ADDRESS = "c1:9000"


async def acknowledge(_message: Message, call: Call) -> None:
    await call.send(Ack())


def is_connected(dialer: Dialer) -> bool:
    return dialer.connection is not None and not dialer.connection.is_closed


class Registrar:
    """Collects what the dialer connects."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Connection]] = []

    async def __call__(self, connection: Connection) -> None:
        self.seen.append((now(), connection))
        await connection.call(ListModels(), timeout=1)


def test_delays_double_to_a_cap_and_are_spread_by_half() -> None:
    assert [retry_delay(n, 1.0) for n in range(1, 9)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, MAX_DELAY, MAX_DELAY]
    assert retry_delay(3, 0.0) == pytest.approx(0.1)
    assert retry_delay(10**9, 1.0) == MAX_DELAY


async def test_the_dialer_may_start_before_the_listener() -> None:
    network, registrar = MemoryNetwork("w1"), Registrar()
    dialer = Dialer(network, ADDRESS, hello=WORKER, on_connected=registrar)
    dialer.start()
    await asyncio.sleep(30)
    assert not is_connected(dialer)
    server = Server(hello=COORDINATOR, handler=acknowledge)
    await server.listen(network.at("c1"), ADDRESS)
    await asyncio.sleep(MAX_DELAY + 0.1)
    assert len(registrar.seen) == 1
    assert dialer.connection is not None
    assert dialer.connection.peer == COORDINATOR
    await dialer.close()
    assert not is_connected(dialer)
    await asyncio.sleep(0.1)
    assert server.connections == set()
    await server.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_lost_connection_is_dialled_anew_soon() -> None:
    network, registrar = MemoryNetwork("w1"), Registrar()
    server = Server(hello=COORDINATOR, handler=acknowledge)
    await server.listen(network.at("c1"), ADDRESS)
    dialer = Dialer(network, ADDRESS, hello=WORKER, on_connected=registrar)
    dialer.start()
    await asyncio.sleep(60)
    network.faults("c1").cut()
    await asyncio.sleep(0.1)
    assert len(registrar.seen) == 2
    assert registrar.seen[1][0] == pytest.approx(60, abs=0.06)
    await dialer.close()
    await server.close()


async def test_a_partition_is_left_by_keepalive_and_dialled_until_it_heals() -> None:
    network, registrar = MemoryNetwork("w1"), Registrar()
    server = Server(hello=COORDINATOR, handler=acknowledge)
    await server.listen(network.at("c1"), ADDRESS)
    dialer = Dialer(network, ADDRESS, hello=WORKER, on_connected=registrar, keepalive=Keepalive(1, 1))
    dialer.start()
    await asyncio.sleep(10)
    network.faults("c1").partition()
    await asyncio.sleep(10)
    assert not is_connected(dialer)
    network.faults("c1").heal()
    await asyncio.sleep(MAX_DELAY + 0.1)
    assert is_connected(dialer)
    await dialer.close()
    await server.close()


async def test_a_peer_that_hangs_up_at_once_is_not_hammered() -> None:
    network, dialled = MemoryNetwork("w1"), 0

    async def hang_up(connection: Connection) -> None:
        nonlocal dialled
        dialled += 1
        raise Overloaded("no more workers")

    server = Server(hello=COORDINATOR, handler=acknowledge)
    await server.listen(network.at("c1"), ADDRESS)
    dialer = Dialer(network, ADDRESS, hello=WORKER, on_connected=hang_up)
    dialer.start()
    await asyncio.sleep(60)
    assert 30 < dialled < 75
    await dialer.close()
    await server.close()


async def test_a_mistake_in_on_connected_is_logged_and_the_dialer_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    network, dialled = MemoryNetwork("w1"), 0

    async def fail(connection: Connection) -> None:
        nonlocal dialled
        dialled += 1
        raise ValueError("a mistake")

    server = Server(hello=COORDINATOR, handler=acknowledge)
    await server.listen(network.at("c1"), ADDRESS)
    dialer = Dialer(network, ADDRESS, hello=WORKER, on_connected=fail)
    with caplog.at_level(logging.ERROR):
        dialer.start()
        await asyncio.sleep(10)
    assert dialled > 1
    assert "a mistake" in caplog.text
    await dialer.close()
    await server.close()


async def test_what_runs_on_a_connection_ends_with_it() -> None:
    network, ended = MemoryNetwork("w1"), []

    async def heartbeat(connection: Connection) -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append(connection)

    server = Server(hello=COORDINATOR, handler=acknowledge)
    await server.listen(network.at("c1"), ADDRESS)
    dialer = Dialer(network, ADDRESS, hello=WORKER, on_connected=heartbeat)
    dialer.start()
    await asyncio.sleep(10)
    network.faults("c1").cut()
    await asyncio.sleep(10)
    assert len(ended) == 1
    await dialer.close()
    assert len(ended) == 2
    await server.close()


async def test_connect_gives_a_connection_that_is_ready_or_says_why_not() -> None:
    network = MemoryNetwork("w1")
    with pytest.raises(WorkerLost, match="refused"):
        await connect(network, ADDRESS, hello=WORKER)
    silent = await network.listen(ADDRESS, asyncio.Protocol)
    with pytest.raises(DeadlineExceeded):
        await connect(network, ADDRESS, hello=WORKER, timeout=3)
    assert now() == pytest.approx(3, abs=0.01)
    silent.close()

    class Http(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    await network.listen(ADDRESS, Http)
    with pytest.raises(ProtocolError):
        await connect(network, ADDRESS, hello=WORKER)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_that_closes_ends_its_connections_with_its_reason() -> None:
    network = MemoryNetwork("w1")
    server = Server(hello=COORDINATOR, handler=acknowledge)
    await server.listen(network.at("c1"), ADDRESS)
    connections = [await connect(network, ADDRESS, hello=WORKER) for _ in range(3)]
    assert len(server.connections) == 3
    await server.close("upgrade")
    assert server.connections == set()
    for connection in connections:
        await connection.wait_closed()
        with pytest.raises(WorkerLost, match="upgrade"):
            await connection.call(ListModels(), timeout=1)
    with pytest.raises(WorkerLost, match="refused"):
        await connect(network, ADDRESS, hello=WORKER)
