"""Peers that break the rules: what they claim changes nothing for the workers and clients that keep them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import pytest
from sim.simulation import COORDINATOR, MODEL, Fleet, counting, fleet, simulate

from shoal.config import ModelConfig
from shoal.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    ProtocolError,
    ShoalError,
    WorkerLost,
)
from shoal.messages import (
    Ack,
    Answer,
    Chunk,
    Deploy,
    Drain,
    Generate,
    Inferred,
    Invite,
    ModelInfo,
    Register,
    Registered,
    Request,
    Resources,
    Undeploy,
)
from shoal.model_registry import make_spec
from shoal.model_registry.registry import FORGET_AFTER
from shoal.rpc import Call, Connection, Handler, Hello
from shoal.rpc.dialer import connect
from shoal.types import (
    CoordinatorId,
    FinishReason,
    ModelKind,
    ModelName,
    ModelState,
    RequestId,
    Sampling,
    TextPrompt,
    Usage,
    Version,
    WorkerId,
    WorkerState,
)
from shoal.worker.reports import HEARTBEAT

Role = Literal["worker", "client", "coordinator"]

READY = ModelInfo(MODEL, ModelKind.GENERATE, ModelState.READY)


def registration(worker_id: str, *, instance: str = "impostor", **fields: Any) -> Register:
    defaults: dict[str, Any] = {"capacity": 64, "models": (READY,), "state": WorkerState.READY}
    return Register(WorkerId(worker_id), instance, "nowhere:1", resources=Resources(), **(defaults | fields))


@asynccontextmanager
async def stranger(
    f: Fleet,
    role: Role = "worker",
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


@pytest.mark.parametrize("order", [Drain(0.1), Deploy(MODEL, Version("2"), {}), Undeploy(MODEL, Version("1"), 0.1)])
@pytest.mark.parametrize("role", ["client", "worker", "coordinator"])
def test_a_worker_takes_no_orders_from_strangers(role: Role, order: Request) -> None:
    async def scenario() -> None:
        async with fleet(1) as f, stranger(f, role, at=f.workers["w1"].address) as connection:
            with pytest.raises(Forbidden, match="only from coordinators it has registered with"):
                await connection.call(order, timeout=1)
            assert await f.ask() == counting(5)

    simulate(scenario())


@pytest.mark.parametrize(("role", "why"), [("client", "invites no worker"), ("coordinator", "its configuration alone")])
def test_a_worker_that_has_coordinators_follows_no_other(role: Role, why: str) -> None:
    async def scenario() -> None:
        async with fleet(1) as f, stranger(f, role, at=f.workers["w1"].address) as connection:
            with pytest.raises(Forbidden, match=why):
                await connection.call(Invite(), timeout=1)

    simulate(scenario())


def test_a_worker_that_calls_and_is_called_by_one_coordinator_settles_on_one_connection() -> None:
    async def scenario() -> None:
        async with fleet(workers=("w1:9001",)) as f:
            await f.add_worker("w1")
            await f.until_ready(1)
            await asyncio.sleep(5)
            asked = asyncio.create_task(f.ask(500))
            await asyncio.sleep(9)
            (member,) = f.coordinator.fleet.members()
            assert member.sent == 1  # it has not been moved from one connection to the other
            assert await asked == counting(500)

    simulate(scenario())


@pytest.mark.parametrize("answer", [Registered(CoordinatorId("c"), math.nan), Registered(CoordinatorId("c"), 0), Ack()])
def test_an_invitation_that_leads_to_nonsense_leaves_the_worker_as_it_was(answer: Answer) -> None:
    async def nonsense(message: Request, call: Call) -> None:
        await call.send(answer)

    async def scenario() -> None:
        async with fleet() as f:
            worker = await f.add_worker("w1", invited=True)
            async with stranger(f, "coordinator", at=worker.address, handler=nonsense) as connection:
                await connection.call(Invite(), timeout=1)
                await asyncio.sleep(1)
                assert connection.is_closed
            assert worker._reports._heartbeat == HEARTBEAT

    simulate(scenario())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"capacity": 0}, "capacity"),
        ({"capacity": -5}, "capacity"),
        ({"weight": math.nan}, "weight"),
        ({"zone": "z" * 257}, "zone"),
        ({"models": (READY,) * 257}, "models"),
        ({"models": (msgspec.structs.replace(READY, name=ModelName("m" * 257)),)}, "models"),
        ({"models": (msgspec.structs.replace(READY, reason="r" * 8193),)}, "models"),
    ],
)
def test_a_registration_beyond_the_bounds_is_refused(fields: dict[str, Any], field: str) -> None:
    async def scenario() -> None:
        async with fleet() as f, stranger(f) as connection:
            with pytest.raises(InvalidRequest):
                await connection.call(registration("w", **fields), timeout=1)
            assert worker_ids(f) == []

    simulate(scenario())


def test_streams_that_nobody_reads_give_their_places_back() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("w1", capacity=8)
            await f.until_ready(1)
            hello = Hello(role="client", node_id="stranger", credit=1)
            connection = await connect(f.network.at("stranger"), COORDINATOR, hello=hello)
            request = Generate(RequestId("r"), MODEL, TextPrompt("count"), Sampling(max_tokens=500))
            for _ in range(8):
                await connection._outbound.open(request, 10.0**15)  # 500 tokens, of which it takes one
            await asyncio.sleep(1)
            with pytest.raises(ShoalError):
                await f.ask(timeout=1)
            await asyncio.sleep(150)
            f.assert_nothing_is_left()
            assert await f.ask() == counting(5)
            await connection.close()

    simulate(scenario())


def test_one_connection_leaves_half_of_the_places_to_others() -> None:
    async def scenario() -> None:
        async with fleet(1, max_in_flight=8) as f, stranger(f, "client") as connection:
            request = Generate(RequestId("r"), MODEL, TextPrompt("count"), Sampling(max_tokens=50))
            for _ in range(4):
                await connection._outbound.open(request, 60)
            with pytest.raises(Overloaded, match="one connection may have 4 requests"):
                await connection.call(request, timeout=60)
            assert await asyncio.gather(*(f.ask() for _ in range(4))) == [counting(5)] * 4
            await asyncio.sleep(3)
            f.assert_nothing_is_left()
            answer = await connection.call(
                msgspec.structs.replace(request, sampling=Sampling(max_tokens=1)), timeout=60
            )
            assert isinstance(answer, Chunk)

    simulate(scenario())


@pytest.mark.parametrize(
    "answer",
    [Ack(), Inferred({}), Chunk("", (), finish_reason=FinishReason.STOP, usage=Usage(-5, -5))],
)
def test_a_worker_that_answers_nonsense_is_passed_over_and_then_left_alone(answer: Answer) -> None:
    async def nonsense(message: Request, call: Call) -> None:
        asked.append(message)
        await call.send(answer)

    asked: list[Request] = []

    async def scenario() -> None:
        async with fleet(1) as f, stranger(f, handler=nonsense) as connection:
            await connection.call(registration("w"), timeout=1)
            for _ in range(40):
                assert await f.ask() == counting(5)
            assert 0 < len(asked) < 10  # its failures have taken it out of rotation
            f.assert_nothing_is_left()
            await f.workers["w1"].stop()
            with pytest.raises(ShoalError) as failed:
                await f.ask()
            assert failed.value.status == 503 or "answer" in failed.value.message

    simulate(scenario())


def model(name: str, state: ModelState = ModelState.READY) -> ModelInfo:
    return ModelInfo(ModelName(name), ModelKind.GENERATE, state)


def test_a_worker_that_comes_and_goes_leaves_no_names_behind(caplog: pytest.LogCaptureFixture) -> None:
    bad = ("default", "", "a\nb\x1b[31m", "x" * 100, "a@b")

    async def scenario() -> None:
        async with fleet(1) as f:
            async with stranger(f) as connection:
                await connection.call(registration("w", models=(*map(model, bad), model("fine"))), timeout=1)
                assert [spec.name for spec in f.registry.list()] == [MODEL, "fine"]
                assert f.coordinator.plane.ready()
            assert await f.ask(model=ModelName("default")) == counting(5)
            assert f.coordinator.plane.ready()
            with pytest.raises(ModelUnavailable):
                await f.ask(model=ModelName("fine"))  # it may be starting again
            await asyncio.sleep(FORGET_AFTER + 11)
            with pytest.raises(ModelNotFound):
                await f.ask(model=ModelName("fine"))
            assert await f.ask() == counting(5)

    simulate(scenario())
    told = [record.getMessage() for record in caplog.records if "not taken" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("5 of the 6 models of worker w are not taken")


def test_a_model_that_failed_everywhere_keeps_nobody_waiting_but_one_that_loads_does() -> None:
    async def scenario() -> None:
        async with fleet(1) as f, stranger(f) as connection:
            assert f.coordinator.plane.ready()
            await connection.call(registration("w", models=(model("slow", ModelState.LOADING),)), timeout=1)
            assert not f.coordinator.plane.ready()
            await connection.call(registration("w", models=(model("slow", ModelState.FAILED),)), timeout=1)
            assert f.coordinator.plane.ready()
            assert [served.name for served in f.coordinator.plane.models() if served.failed] == ["slow"]

    simulate(scenario())


def test_a_configured_model_that_no_worker_has_is_waited_for() -> None:
    async def scenario() -> None:
        async with fleet(1, [make_spec("other", ModelConfig(uri="echo"))]) as f:
            assert not f.coordinator.plane.ready()

    simulate(scenario())


def test_a_worker_that_is_just_being_let_go_counts_as_lost() -> None:
    async def scenario() -> None:
        async with fleet() as f, stranger(f) as connection:
            await connection.call(registration("w"), timeout=1)
            made = f.coordinator.fleet
            ours = made._connections[WorkerId("w")]
            member = made._links.pop(ours)
            with pytest.raises(WorkerLost):
                made.way_to(WorkerId("w"))
            made._links[ours] = member

    simulate(scenario())


def test_a_refused_registration_brings_no_models() -> None:
    async def scenario() -> None:
        async with fleet() as f, stranger(f) as connection:
            with pytest.raises(ProtocolError, match="cannot register as gone"):
                await connection.call(registration("w", state=WorkerState.GONE), timeout=1)
            assert len(f.registry) == 0

    simulate(scenario())
