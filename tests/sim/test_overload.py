"""Ten times more than a fleet can do: who is answered, who is refused, and that everybody is either, once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from sim.simulation import COORDINATOR, MODEL, Fleet, NumbersRuntime, counting, fleet, simulate

from shoal.clock import now
from shoal.config import LimitConfig, ModelConfig, TenantConfig, WorkerConfig
from shoal.errors import (
    Draining,
    Forbidden,
    ModelUnavailable,
    Overloaded,
    PayloadTooLarge,
    ShoalError,
    WorkerLost,
)
from shoal.messages import Generate, Infer, Inferred, ModelInfo
from shoal.model_registry import ModelSpec
from shoal.rpc import Hello, connect
from shoal.types import ModelKind, ModelName, ModelState, RequestId, Sampling, TextPrompt
from shoal.worker.runtime import Send
from shoal.worker.worker import Worker

MILL = ModelName("mill")
RUN = 0.04  # seconds of a batch
ROWS = 4  # of a batch
WORKERS = 2
CAPACITY = WORKERS * ROWS / RUN  # requests a second


class MillRuntime(NumbersRuntime):
    """Runs up to :data:`ROWS` requests in one go, and one batch at a time; what waits is served as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.info = ModelInfo(name=MILL, kind=ModelKind.TENSOR, state=ModelState.READY, at_once=2 * ROWS)
        self.most = 0
        self._turn = asyncio.Semaphore(ROWS)

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        self.running.add(request.request_id)
        self.most = max(self.most, len(self.running))
        try:
            async with self._turn:
                await asyncio.sleep(RUN)
                self.steps += 1
            await send(Inferred(request.inputs))
        finally:
            self.running.discard(request.request_id)


@dataclass
class Tally:
    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)  # seconds to an answer
    refusals: list[tuple[float, float]] = field(default_factory=list)  # seconds to a 429, and until to come back

    @property
    def good(self) -> int:
        return self.outcomes["ok"]


class Load:
    """Clients that ask at a rate, whatever comes of it; each request has ``within`` seconds."""

    def __init__(self, f: Fleet, *, chance: random.Random) -> None:
        self._fleet = f
        self._chance = chance
        self.of: dict[str, Tally] = {}
        self._numbers = 0

    async def run(self, rates: dict[str, float], *, seconds: float, within: float = 1.0) -> None:
        async with asyncio.TaskGroup() as group:
            for tenant, rate in rates.items():
                group.create_task(self._ask_at(tenant, rate, seconds, within, group))

    async def _ask_at(self, tenant: str, rate: float, seconds: float, within: float, group: asyncio.TaskGroup) -> None:
        tally, until = self.of.setdefault(tenant, Tally()), now() + seconds
        while now() < until:
            await asyncio.sleep(self._chance.expovariate(rate))
            self._numbers += 1
            tally.sent += 1
            group.create_task(self._ask(tenant, self._numbers, within, tally))

    async def _ask(self, tenant: str, number: int, within: float, tally: Tally) -> None:
        began = now()
        request = Infer(RequestId(f"r{number}"), MILL, {"x": np.array([[number]])}, tenant=tenant)
        try:
            answer = await self._fleet.coordinator.plane.infer(request, timeout=within)
        except ShoalError as error:
            tally.outcomes[error.code] += 1
            if isinstance(error, Overloaded):
                tally.refusals.append((now() - began, error.retry_after or 0.0))
        else:
            assert answer.outputs["x"].tolist() == [[number]]
            tally.outcomes["ok"] += 1
            tally.waits.append(now() - began)


def mill(
    test: Callable[[Fleet], Any], *, tenants: dict[str, TenantConfig] | None = None, spec: ModelSpec | None = None
) -> None:
    async def scenario() -> None:
        async with fleet(specs=[spec] if spec else [], tenants=tenants or {}) as f:
            for number in range(WORKERS):
                await f.add_worker(f"w{number}", runtime=MillRuntime())
            await f.until_ready(WORKERS)
            await test(f)
            f.assert_nothing_is_left()
            assert not f.coordinator.turns._crowds

    simulate(scenario())


@pytest.mark.parametrize("seed", range(2))
def test_at_ten_times_the_capacity_as_much_is_answered_as_at_its_peak(seed: int) -> None:
    async def test(f: Fleet) -> None:
        answered = []
        for share in (1.0, 2.0, 10.0):
            load = Load(f, chance=random.Random(seed))
            await load.run({"": share * CAPACITY}, seconds=4)
            tally = load.of[""]
            assert sum(tally.outcomes.values()) == tally.sent
            assert tally.outcomes.keys() <= {"ok", "overloaded", "deadline_exceeded"}
            assert all(wait == 0 and back >= 1 for wait, back in tally.refusals)
            assert tally.outcomes["deadline_exceeded"] < 0.02 * tally.sent
            answered.append(tally.good / 4)
            await asyncio.sleep(30)
        assert min(answered[1:]) >= 0.9 * CAPACITY
        assert all(runtime.most <= 2 * ROWS for runtime in f.runtimes.values() if isinstance(runtime, MillRuntime))

    mill(test)


def test_under_contention_tenants_get_what_their_weights_say() -> None:
    async def test(f: Fleet) -> None:
        load = Load(f, chance=random.Random(1))
        await load.run({"gold": 3 * CAPACITY, "plain": 3 * CAPACITY}, seconds=8)
        assert load.of["gold"].good / load.of["plain"].good == pytest.approx(3, rel=0.1)
        assert sum(tally.good for tally in load.of.values()) / 8 >= 0.9 * CAPACITY

    mill(test, tenants={"gold": TenantConfig(weight=3)})


def test_a_greedy_tenant_does_not_slow_a_polite_one() -> None:
    async def test(f: Fleet) -> None:
        alone, beside = Load(f, chance=random.Random(2)), Load(f, chance=random.Random(2))
        await alone.run({"polite": 0.3 * CAPACITY}, seconds=4)
        await asyncio.sleep(30)
        await beside.run({"polite": 0.3 * CAPACITY, "greedy": 10 * CAPACITY}, seconds=4)
        polite = beside.of["polite"]
        assert polite.good == polite.sent
        assert max(polite.waits) < max(alone.of["polite"].waits) + 4 * RUN
        assert beside.of["greedy"].good / 4 >= 0.6 * CAPACITY

    mill(test)


def test_nobody_starves_behind_urgent_requests_without_end() -> None:
    async def test(f: Fleet) -> None:
        async with asyncio.TaskGroup() as group:
            load = Load(f, chance=random.Random(3))
            urgent = group.create_task(load.run({"": 1.5 * CAPACITY}, seconds=20, within=2))
            await asyncio.sleep(5)
            request = Infer(RequestId("old"), MILL, {"x": np.zeros((1, 1))}, priority=-1)
            began = now()
            await f.coordinator.plane.infer(request, timeout=60)
            assert not urgent.done()
            assert now() - began < 13  # a class lower is five seconds, and no deadline is five more

    mill(test)


def test_a_worker_that_dies_in_the_middle_of_it_loses_nobody() -> None:
    async def test(f: Fleet) -> None:
        load = Load(f, chance=random.Random(4))
        running = asyncio.create_task(load.run({"a": CAPACITY, "b": 2 * CAPACITY}, seconds=12))
        await asyncio.sleep(4)
        f.crash("w0")
        await asyncio.sleep(3)
        await f.add_worker("w2", runtime=MillRuntime())
        await running
        for tally in load.of.values():
            assert sum(tally.outcomes.values()) == tally.sent
            assert tally.outcomes.keys() <= {"ok", "overloaded", "deadline_exceeded"}
        assert sum(tally.good for tally in load.of.values()) > 0.6 * 12 * CAPACITY

    mill(test)


def test_those_who_wait_when_the_only_worker_dies_are_answered_by_the_next() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("w1", capacity=1)
            await f.until_ready(1)
            asked = [asyncio.create_task(f.ask(5)) for _ in range(6)]
            await asyncio.sleep(0.05)
            f.crash("w1")
            await asyncio.sleep(0.5)
            began = now()
            await f.add_worker("w2", capacity=8)
            assert await asyncio.gather(*asked) == [counting(5)] * 6
            assert now() - began < 0.5
            f.assert_nothing_is_left()

    simulate(scenario())


def test_those_who_wait_for_nobody_are_told_after_as_long_as_a_restart_takes() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            await f.add_worker("w1", capacity=1)
            await f.until_ready(1)
            asked = [asyncio.create_task(f.ask(500, timeout=200)) for _ in range(50)]
            await asyncio.sleep(0.5)
            f.crash("w1")
            results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 32)
            assert all(isinstance(result, ModelUnavailable | WorkerLost) for result in results)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_two_models_that_share_a_full_worker_lose_nobody() -> None:
    """Both lines may see the one place that is left; who comes second waits on."""

    async def scenario() -> None:
        async with fleet() as f:
            first, second = NumbersRuntime(), NumbersRuntime()
            second.info = msgspec.structs.replace(second.info, name=ModelName("others"))
            config = WorkerConfig(host="w1", coordinators=(COORDINATOR,), capacity=2)
            runtimes = {runtime.info.part: runtime for runtime in (first, second)}
            f.workers["w1"] = Worker(config, runtimes, f.network.at("w1"))
            await f.workers["w1"].start()
            await f.until_ready(1)
            names = [first.info.name, second.info.name] * 10
            assert await asyncio.gather(*(f.ask(5, model=name) for name in names)) == [counting(5)] * 20
            f.assert_nothing_is_left()

    simulate(scenario())


def test_what_another_coordinator_took_is_waited_for() -> None:
    """This one hears of it in the worker's reports alone."""

    async def scenario() -> None:
        async with fleet() as f:
            worker = await f.add_worker("w1", capacity=2)
            await f.until_ready(1)
            with worker._place, worker._place:
                await asyncio.sleep(1)
                asked = asyncio.create_task(f.ask(5))
                await asyncio.sleep(1)
                assert not asked.done()
            assert await asked == counting(5)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_tenant_beyond_its_rate_is_told_which_and_the_others_are_not() -> None:
    async def test(f: Fleet) -> None:
        load = Load(f, chance=random.Random(5))
        await load.run({"slow": 50, "free": 50}, seconds=10)
        assert load.of["slow"].good == pytest.approx(200, abs=25)
        assert load.of["free"].good == load.of["free"].sent
        metrics = f.coordinator.metrics.render().decode()
        assert 'shoal_rejected_total{reason="tenant_rows_per_second",tenant="slow"}' in metrics

    spec = ModelSpec(name=MILL, kind=ModelKind.TENSOR, batchable=True)
    mill(test, tenants={"slow": TenantConfig(rows_per_second=20)}, spec=spec)


def test_a_models_bound_holds_for_all_who_ask_it() -> None:
    async def test(f: Fleet) -> None:
        load = Load(f, chance=random.Random(6))
        await load.run({"a": CAPACITY, "b": CAPACITY}, seconds=3)
        assert all(runtime.most <= 3 for runtime in f.runtimes.values() if isinstance(runtime, MillRuntime))
        assert all(tally.outcomes["overloaded"] for tally in load.of.values())

    settings = ModelConfig(limits=LimitConfig(requests=3))
    mill(test, spec=ModelSpec(name=MILL, kind=ModelKind.TENSOR, settings=settings))


def test_native_clients_pass_the_same_door_and_name_no_tenant() -> None:
    async def test(f: Fleet) -> None:
        hello = Hello(role="client", node_id="somebody")
        connection = await connect(f.network.at("client"), "coordinator:9000", hello=hello, timeout=5)
        plain = Infer(RequestId("r"), MILL, {"x": np.zeros((1, 1))})
        results = await asyncio.gather(*(connection.call(plain, timeout=5) for _ in range(9)), return_exceptions=True)
        assert sum(isinstance(result, Inferred) for result in results) == 3
        assert sum(isinstance(result, Overloaded) for result in results) == 6
        for message in (
            msgspec.structs.replace(plain, tenant="gold"),
            Generate(RequestId("r"), MILL, TextPrompt("x"), Sampling(), tenant="gold"),
        ):
            with pytest.raises(Forbidden, match="names no tenant"):
                await connection.call(message, timeout=5)
        await connection.close()

    settings = ModelConfig(limits=LimitConfig(requests=3))
    mill(test, spec=ModelSpec(name=MILL, kind=ModelKind.TENSOR, settings=settings))


def test_whoever_still_waits_when_the_coordinator_stops_is_told_so() -> None:
    """In the line, and for another worker after the own one was lost."""

    async def scenario() -> None:
        async with fleet(drain_timeout=1.0) as f:
            await f.add_worker("w1", capacity=2)
            await f.until_ready(1)
            asked = [asyncio.create_task(f.ask(1000)) for _ in range(6)]
            await asyncio.sleep(0.5)
            began = now()
            f.listener.close()
            await f.coordinator.stop()
            ends = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(end) for end in ends] == [Draining] * 6
            assert now() - began < 1.2
            f.assert_nothing_is_left()

    simulate(scenario())


def test_the_generations_of_one_request_are_let_in_or_refused_before_any_of_them_computes() -> None:
    async def test() -> None:
        async with fleet(1, tenants={"default": TenantConfig(requests=3)}) as f:
            plane = f.coordinator.plane
            wanted = [
                Generate(RequestId(f"r-{n}"), MODEL, TextPrompt("x"), Sampling(max_tokens=2), group="r", tenant="a")
                for n in range(4)
            ]
            with pytest.raises(PayloadTooLarge, match="this request has 4"), plane.together(wanted):
                pass
            assert f.runtimes["w1"].steps == 0
            with plane.together(wanted[:3]) as places:
                chunks = [chunk async for chunk in plane.generate(wanted[0], place=places[0])]
                assert chunks[-1].usage is not None
                with pytest.raises(Overloaded), plane.together(wanted[:3]):
                    pass
            f.assert_nothing_is_left()  # nor of those that never began
            with plane.together(wanted[:3]):
                pass

    simulate(test())


def test_the_generations_of_one_request_are_of_one_model_behind_an_alias_of_several() -> None:
    async def test() -> None:
        async with fleet(1) as f:
            other = NumbersRuntime()
            other.info = msgspec.structs.replace(other.info, name=ModelName("other"))
            await f.add_worker("w2", runtime=other)
            await f.until_ready(2)
            f.registry.point("either", {MODEL: 1, "other": 1})
            wanted = [
                Generate(RequestId(f"r-{n}"), ModelName("either"), TextPrompt("x"), Sampling(max_tokens=1), group="r")
                for n in range(8)
            ]
            with f.coordinator.plane.together(wanted) as places:
                for request, place in zip(wanted, places, strict=True):
                    assert [chunk async for chunk in f.coordinator.plane.generate(request, place=place)]
            assert sorted(runtime.steps for runtime in f.runtimes.values()) == [0, 8]

    simulate(test())
