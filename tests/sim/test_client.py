"""A client whose coordinator goes away goes on with another, or with the same one when it is back."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from sim.simulation import COORDINATOR, MODEL, TABLE, Fleet, ShardRuntime, counting, fleet, simulate

from shoal.client import AsyncClient
from shoal.clock import now
from shoal.config import CoordinatorConfig, ModelConfig, ShardConfig
from shoal.errors import InvalidRequest, ModelUnavailable, WorkerLost
from shoal.model_registry import ModelSpec, Registry
from shoal.node import Coordinator
from shoal.router import sharding
from shoal.types import ModelKind

SECOND = "second:9000"


def client(f: Fleet, address: str = COORDINATOR, timeout: float = 60.0) -> AsyncClient:
    return AsyncClient(address, timeout=timeout, network=f.network.at("client"))


async def read(c: AsyncClient, tokens: int) -> str:
    return "".join([chunk.text async for chunk in c.stream("count", model=MODEL, max_tokens=tokens)])


def test_a_stream_goes_on_where_it_was_when_the_connection_breaks() -> None:
    async def scenario() -> None:
        async with fleet(2) as f, client(f) as c:
            reading = [asyncio.create_task(read(c, 100)) for _ in range(5)]
            for _ in range(3):
                await asyncio.sleep(0.4)
                f.network.faults("client", "coordinator").cut()
            assert await asyncio.gather(*reading) == [counting(100)] * 5
            await asyncio.sleep(0.1)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_client_may_say_which_shard_its_rows_belong_to() -> None:
    shards = ShardConfig(count=3)
    spec = ModelSpec(name=TABLE, kind=ModelKind.TENSOR, settings=ModelConfig(shards=shards))

    async def scenario() -> None:
        async with fleet(specs=[spec]) as f, client(f) as c:
            for shard in range(3):
                await f.add_worker(f"w{shard}", runtime=ShardRuntime(shard))
            await f.until_ready(3)
            for key in ("ada", "José", "42"):
                answer = await c.infer(TABLE, {"id": np.arange(2)}, key=key)
                assert answer["shard"].tolist() == [sharding(shards)(key)] * 2
            with pytest.raises(InvalidRequest, match="needs a key"):
                await c.infer(TABLE, {"id": np.arange(2)})

    simulate(scenario())


def test_a_stream_goes_on_with_another_coordinator() -> None:
    async def scenario() -> None:
        async with fleet(0) as f:
            second = Coordinator(CoordinatorConfig(), Registry(), f.network.at("second"))
            listener = await f.network.listen(SECOND, second.server.accept)
            second.start()
            await f.add_worker("w1", coordinators=(COORDINATOR, SECOND))
            await f.until_ready(1)
            async with client(f, f"{COORDINATOR}, {SECOND}") as c:
                reading = asyncio.create_task(read(c, 100))
                await asyncio.sleep(1.0)
                f.network.faults("client", "coordinator").refused = True
                f.network.faults("client", "coordinator").cut()
                assert await reading == counting(100)
                assert now() < 3.0
            listener.close()
            await second.stop()

    simulate(scenario())


def test_a_coordinator_that_stays_away_ends_the_stream_with_a_reason() -> None:
    async def scenario() -> None:
        async with fleet(1) as f, client(f, timeout=1000) as c:
            reading = asyncio.create_task(read(c, 500))
            await asyncio.sleep(1.0)
            f.network.faults("client", "coordinator").refused = True
            f.network.faults("client", "coordinator").cut()
            with pytest.raises(WorkerLost, match="cannot reach a coordinator at coordinator:9000"):
                await reading
            assert now() < 35

    simulate(scenario())


def test_what_the_coordinator_says_is_not_taken_for_its_loss() -> None:
    async def scenario() -> None:
        async with fleet(1) as f, client(f) as c:
            f.crash("w1")
            await asyncio.sleep(0.1)
            with pytest.raises(ModelUnavailable):
                await read(c, 5)

    simulate(scenario())
