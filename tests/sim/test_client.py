"""A client whose coordinator goes away goes on with another, or with the same one when it is back.

The one that has begun an answer goes on with it meanwhile: nothing is computed twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from sim.simulation import (
    COORDINATOR,
    MODEL,
    SERIES,
    STEP,
    TABLE,
    Fleet,
    NumbersRuntime,
    PartsRuntime,
    ShardRuntime,
    counting,
    fleet,
    simulate,
)

from shoal.client import AsyncClient
from shoal.clock import now
from shoal.config import CoordinatorConfig, KeepConfig, ModelConfig, ShardConfig
from shoal.errors import Cancelled, Conflict, Draining, InvalidRequest, ModelUnavailable, WorkerLost
from shoal.messages import Chunk, Generate, Infer
from shoal.model_registry import ModelSpec, Registry
from shoal.node import Coordinator
from shoal.router import sharding
from shoal.rpc import Hello, connect
from shoal.types import ModelKind, RequestId, Sampling, TextPrompt
from shoal.worker.runtime import Send

SECOND = "second:9000"


def client(f: Fleet, address: str = COORDINATOR, timeout: float = 60.0) -> AsyncClient:
    return AsyncClient(address, timeout=timeout, network=f.network.at("client"))


@asynccontextmanager
async def two_coordinators(
    runtime: NumbersRuntime | None = None, **settings: Any
) -> AsyncIterator[tuple[Fleet, Coordinator]]:
    """With one worker that both have."""
    async with fleet(0, **settings) as f:
        second = Coordinator(CoordinatorConfig(), Registry(), f.network.at("second"))
        listener = await f.network.listen(SECOND, second.server.accept)
        second.start()
        await f.add_worker("w1", coordinators=(COORDINATOR, SECOND), runtime=runtime)
        await f.until_ready(1)
        yield f, second
        listener.close()
        await second.stop()


@asynccontextmanager
async def away(f: Fleet, seconds: float) -> AsyncIterator[None]:
    """The client loses its connection, and cannot call for so long."""
    faults = f.network.faults("client", "coordinator")
    faults.refused = True
    faults.cut()
    await asyncio.sleep(seconds)
    faults.refused = False
    yield


def kept(f: Fleet, name: str = "") -> float:
    """A metric of the coordinator's."""
    found = re.search(
        rf"^shoal_kept_answers{name}(?:{{[^}}]*}})? (\S+)$", f.coordinator.metrics.render().decode(), re.MULTILINE
    )
    return float(found[1]) if found else 0.0


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


def test_the_same_coordinator_goes_on_meanwhile_and_nothing_is_computed_twice() -> None:
    async def scenario() -> None:
        async with fleet(2) as f, client(f) as c:
            reading = [asyncio.create_task(read(c, 200)) for _ in range(5)]
            for _ in range(3):
                await asyncio.sleep(0.8)
                async with away(f, 0.3):
                    assert sum(len(runtime.running) for runtime in f.runtimes.values()) == 5
            assert await asyncio.gather(*reading) == [counting(200)] * 5
            assert sum(runtime.steps for runtime in f.runtimes.values()) == 5 * 200
            assert kept(f, "_taken_up_total") == 15
            assert now() < 200 * STEP + 1
            await asyncio.sleep(31)
            assert (kept(f), kept(f, "_bytes")) == (0, 0)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_an_answer_that_ended_meanwhile_is_still_there() -> None:
    async def scenario() -> None:
        async with fleet(1) as f, client(f) as c:
            reading = asyncio.create_task(read(c, 100))
            await asyncio.sleep(1.0)
            async with away(f, 3.0):
                f.assert_nothing_is_left()
            assert await reading == counting(100)
            assert f.runtimes["w1"].steps == 100

    simulate(scenario())


def test_a_client_that_does_not_come_back_costs_the_grace_period_and_no_more() -> None:
    async def scenario() -> None:
        async with fleet(1, keep=KeepConfig(grace=5)) as f, client(f) as c:
            reading = asyncio.create_task(read(c, 10_000))
            await asyncio.sleep(1.0)
            async with away(f, 4.0):
                assert f.runtimes["w1"].running
                f.network.faults("client", "coordinator").refused = True
            reading.cancel()
            await asyncio.sleep(1.5)
            f.assert_nothing_is_left()
            assert f.runtimes["w1"].steps < 6.5 / STEP
            assert (kept(f), kept(f, "_abandoned_total")) == (0, 1)

    simulate(scenario())


def test_a_client_that_wants_no_more_has_no_grace() -> None:
    async def scenario() -> None:
        async with fleet(1) as f, client(f) as c:
            async with aclosing(c.stream("count", model=MODEL, max_tokens=10_000)) as chunks:
                async for _ in chunks:
                    break
            await asyncio.sleep(2 * STEP)
            f.assert_nothing_is_left()
            assert kept(f) == 0

    simulate(scenario())


def test_a_client_that_wants_no_more_and_leaves_at_once_has_no_grace() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            for _ in range(5):
                async with client(f) as c:
                    stream = c.stream([{"role": "user", "content": "count"}], max_tokens=2000)
                    await anext(stream)
                    await stream.aclose()
            await asyncio.sleep(0.5)
            assert kept(f) == 0
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_coordinator_that_keeps_no_more_serves_all_the_same() -> None:
    async def scenario() -> None:
        async with fleet(1, keep=KeepConfig(max_answers=2)) as f, client(f) as c:
            reading = [asyncio.create_task(read(c, 50)) for _ in range(3)]
            await asyncio.sleep(0.5)
            assert kept(f) == 1
            async with away(f, 0.1):
                pass
            assert await asyncio.gather(*reading) == [counting(50)] * 3
            assert f.runtimes["w1"].steps < 4 * 50

    simulate(scenario())


def test_a_stream_that_is_no_longer_kept_goes_on_behind_its_tokens() -> None:
    async def scenario() -> None:
        async with fleet(1, keep=KeepConfig(max_bytes=20_000)) as f, client(f) as c:
            reading = asyncio.create_task(read(c, 100))
            for _ in range(2):
                await asyncio.sleep(0.6)
                async with away(f, 0.1):
                    pass
            assert await reading == counting(100)
            assert kept(f, "_dropped_total") >= 1

    simulate(scenario())


def test_a_name_with_a_place_that_does_not_fit_begins_anew_and_ends_what_had_it() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            connection = await connect(f.network.at("client"), COORDINATOR, hello=Hello("client", "test"))
            request = Generate(RequestId("r"), MODEL, TextPrompt("count"), Sampling(max_tokens=50), resume="name")
            async with connection.stream(request, timeout=60) as first:
                await first.next()
                with pytest.raises(Conflict):
                    await connection.call(msgspec.structs.replace(request, tenant="another"), timeout=60)
                strange = msgspec.structs.replace(request, seen=10**9, output=tuple(range(30)))
                async with connection.stream(strange, timeout=60) as second:
                    texts = [chunk.text async for chunk in second if isinstance(chunk, Chunk)]
                assert "".join(texts) == counting(50).partition("29 ")[2]
                with pytest.raises(Cancelled):
                    [chunk async for chunk in first]
            await connection.close()
            await asyncio.sleep(31)
            f.assert_nothing_is_left()
            assert (kept(f), kept(f, "_bytes")) == (0, 0)


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
        async with two_coordinators() as (f, _), client(f, f"{COORDINATOR}, {SECOND}") as c:
            reading = asyncio.create_task(read(c, 100))
            await asyncio.sleep(1.0)
            f.network.faults("client", "coordinator").refused = True
            f.network.faults("client", "coordinator").cut()
            assert await reading == counting(100)
            assert now() < 3.0

    simulate(scenario())


def test_a_coordinator_that_is_frozen_is_not_called_again_first() -> None:
    """Its system takes calls for it that nobody answers."""

    async def scenario() -> None:
        async with two_coordinators() as (f, _), client(f, f"{COORDINATOR}, {SECOND}") as c:
            reading = asyncio.create_task(read(c, 100))
            await asyncio.sleep(1.0)
            f.network.faults("client", "coordinator").stall()
            assert await reading == counting(100)
            assert now() < 1.0 + 10.0 + 100 * STEP
            f.network.faults("client", "coordinator").heal()

    simulate(scenario())


class HastyRuntime(NumbersRuntime):
    """Goes on in longer chunks than it begins with."""

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk, None]:
        most, held = 3 if request.output else 1, list[Chunk]()
        async with aclosing(super().generate(request, deadline=deadline)) as chunks:
            async for chunk in chunks:
                held.append(chunk)
                if len(held) == most or chunk.finish_reason is not None:
                    tokens = tuple(token for part in held for token in part.tokens)
                    text = "".join(part.text for part in held)
                    yield msgspec.structs.replace(chunk, text=text, tokens=tokens)
                    held.clear()


def test_a_stream_wanders_between_coordinators_and_back() -> None:
    """The first goes on meanwhile, but what it then has is not what the client asks for."""

    async def scenario() -> None:
        async with two_coordinators(HastyRuntime()) as (f, _), client(f, f"{COORDINATOR}, {SECOND}") as c:
            reading = asyncio.create_task(read(c, 200))
            for leaves in ("coordinator", "second", "coordinator", "second"):
                await asyncio.sleep(0.7)
                f.network.faults("client", leaves).refused = True
                f.network.faults("client", leaves).cut()
                await asyncio.sleep(0.1)
                f.network.faults("client", leaves).refused = False
            assert await reading == counting(200)
            assert now() < 200 * STEP + 2

    simulate(scenario())


def test_a_coordinator_that_stops_hands_its_streams_on() -> None:
    async def scenario() -> None:
        async with two_coordinators(drain_timeout=0.5) as (f, _), client(f, f"{COORDINATOR}, {SECOND}") as c:
            reading = asyncio.create_task(read(c, 100))
            await asyncio.sleep(1.0)
            f.network.faults("client", "coordinator").refused = True
            await f.coordinator.stop()
            assert await reading == counting(100)

    simulate(scenario())


async def add_table(f: Fleet) -> None:
    await f.add_worker("table", coordinators=(COORDINATOR, SECOND), runtime=ShardRuntime(None))
    await f.until_ready(2)


def test_what_a_draining_coordinator_refuses_another_one_takes() -> None:
    async def scenario() -> None:
        async with two_coordinators() as (f, _), client(f, f"{COORDINATOR}, {SECOND}") as c:
            await add_table(f)
            before = asyncio.create_task(read(c, 100))
            await asyncio.sleep(0.5)
            stopping = asyncio.create_task(f.coordinator.stop())
            await asyncio.sleep(0.1)
            assert await asyncio.gather(*(read(c, 50) for _ in range(5))) == [counting(50)] * 5
            assert (await c.infer(TABLE, {"id": np.arange(3)}))["echo"].tolist() == [0, 1, 2]
            assert await before == counting(100)  # what ran there ended there
            await stopping

    simulate(scenario())


def test_when_every_coordinator_drains_the_client_is_told() -> None:
    async def scenario() -> None:
        async with two_coordinators() as (f, second), client(f, f"{COORDINATOR}, {SECOND}") as c:
            await add_table(f)
            running = asyncio.create_task(read(c, 100))
            await asyncio.sleep(0.5)
            for coordinator in (f.coordinator, second):
                coordinator.admission.closed = True
            with pytest.raises(Draining):
                await read(c, 5)
            with pytest.raises(Draining):
                await c.infer(TABLE, {"id": np.arange(3)})
            assert await running == counting(100)

    simulate(scenario())


def test_a_coordinator_that_only_stood_by_takes_everything_at_once() -> None:
    async def scenario() -> None:
        async with two_coordinators() as (f, _), client(f, SECOND) as c:
            for _ in range(3):
                f.network.faults("w1", "second").cut()
                await asyncio.sleep(10)
            assert await asyncio.gather(*(read(c, 20) for _ in range(20))) == [counting(20)] * 20

    simulate(scenario())


def test_an_inference_that_lost_its_connection_is_asked_for_again() -> None:
    async def scenario() -> None:
        spec = ModelSpec(name=TABLE, kind=ModelKind.TENSOR, settings=ModelConfig(shards=ShardConfig(count=1, key="id")))
        async with fleet(0, [spec]) as f, client(f) as c:
            await f.add_worker("w1", runtime=ShardRuntime(0))
            await f.until_ready(1)
            reading = asyncio.create_task(c.infer(TABLE, {"id": np.arange(3)}))
            await asyncio.sleep(STEP)
            async with away(f, 0.1):
                pass
            assert list((await reading)["echo"]) == [0, 1, 2]
            f.assert_nothing_is_left()

    simulate(scenario())


async def read_series(c: AsyncClient, parts: int) -> list[int]:
    answers = c.infer_stream(SERIES, {"parts": np.array([parts])})
    return [int(outputs["part"][0]) async for outputs in answers]


def test_a_tensor_stream_goes_on_behind_its_parts_when_the_connection_breaks() -> None:
    async def scenario() -> None:
        async with two_coordinators(PartsRuntime()) as (f, _), client(f, f"{COORDINATOR}, {SECOND}") as c:
            reading = asyncio.create_task(read_series(c, 100))
            for leaves in ("coordinator", "second"):
                await asyncio.sleep(0.7)
                f.network.faults("client", leaves).cut()
            assert await reading == list(range(100))
            await asyncio.sleep(0.5)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_tensor_stream_that_comes_out_otherwise_ends_with_a_reason() -> None:
    class Restless(PartsRuntime):
        """Computes something else each time."""

        async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
            self._factor += 1
            await super().infer(request, send, deadline=deadline)

    async def scenario() -> None:
        async with two_coordinators(Restless()) as (f, _), client(f, f"{COORDINATOR}, {SECOND}") as c:
            reading = asyncio.create_task(read_series(c, 100))
            await asyncio.sleep(0.7)
            f.network.faults("client", "coordinator").cut()
            with pytest.raises(WorkerLost, match="begins otherwise"):
                await reading

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
