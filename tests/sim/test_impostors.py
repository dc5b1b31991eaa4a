"""Peers that break the rules: what they claim changes nothing for the workers and clients that keep them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from sim.simulation import COORDINATOR, MODEL, Fleet, counting, fleet, simulate

from shoal.errors import Conflict, ProtocolError
from shoal.messages import ModelInfo, Register, Resources
from shoal.rpc import Connection, Handler, Hello
from shoal.rpc.dialer import connect
from shoal.types import ModelKind, ModelName, ModelState, WorkerId, WorkerState

READY = ModelInfo(MODEL, ModelKind.GENERATE, ModelState.READY)


def registration(worker_id: str, *, instance: str = "impostor", **fields: Any) -> Register:
    fields = {"capacity": 64, "models": (READY,), "state": WorkerState.READY} | fields
    return Register(WorkerId(worker_id), instance, "nowhere:1", resources=Resources(), **fields)


@asynccontextmanager
async def stranger(
    f: Fleet,
    role: Literal["worker", "client", "coordinator"] = "worker",
    *,
    at: str = COORDINATOR,
    handler: Handler | None = None,
) -> AsyncGenerator[Connection, None]:
    connection = await connect(
        f.network.at("stranger"), at, hello=Hello(role=role, node_id="stranger"), handler=handler
    )
    try:
        yield connection
    finally:
        await connection.close()


def worker_ids(f: Fleet) -> list[str]:
    return [member.worker_id for member in f.coordinator.fleet.members()]


def test_a_connection_speaks_for_one_worker_and_leaves_no_other_behind() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            async with stranger(f) as connection:
                await connection.call(registration("ghost-1"), timeout=1)
                await connection.call(registration("ghost-1"), timeout=1)  # itself again
                with pytest.raises(ProtocolError, match="has registered as worker ghost-1"):
                    await connection.call(registration("ghost-2"), timeout=1)
            await asyncio.sleep(0.1)
            assert len(worker_ids(f)) == 1
            assert await asyncio.gather(*(f.ask() for _ in range(10))) == [counting(5)] * 10

    simulate(scenario())


def test_a_living_workers_id_cannot_be_taken() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            (worker_id,) = worker_ids(f)
            async with stranger(f) as connection:
                with pytest.raises(Conflict, match=f"there is a worker {worker_id} already"):
                    await connection.call(registration(worker_id), timeout=1)
                assert await f.ask() == counting(5)
            assert await f.ask() == counting(5)

    simulate(scenario())


def test_a_silent_workers_id_is_for_its_next_life_and_its_old_connection_ends() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            (worker_id,) = worker_ids(f)
            f.network.faults("w1").partition()
            await asyncio.sleep(1.5)  # it is a suspect, but not yet given up
            async with stranger(f) as connection:
                await connection.call(registration(worker_id), timeout=1)
                (member,) = f.coordinator.fleet.members()
                assert member.registration.instance == "impostor"
                await asyncio.sleep(0.1)
                f.network.faults("w1").heal()
            await f.until_ready(1)  # the first life finds its way back
            assert await f.ask() == counting(5)

    simulate(scenario())


def test_of_two_connections_of_one_worker_the_earlier_one_is_closed() -> None:
    async def scenario() -> None:
        async with fleet() as f, stranger(f) as first, stranger(f) as second:
            await first.call(registration("w", instance="same"), timeout=1)
            await second.call(registration("w", instance="same"), timeout=1)
            await asyncio.sleep(0.1)
            assert first.is_closed
            assert not second.is_closed
            assert worker_ids(f) == ["w"]

    simulate(scenario())
