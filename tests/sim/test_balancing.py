"""Where requests go while workers come, go, fall silent and lose their zone; and what follows when none is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np
import pytest
from sim.simulation import MODEL, TABLE, Fleet, NumbersRuntime, ShardRuntime, counting, fleet, simulate

from shoal.api.app import build_app
from shoal.api.testing import AsgiClient
from shoal.clock import now
from shoal.config import HedgeConfig, ModelConfig, ShardConfig
from shoal.errors import DeadlineExceeded, EngineFailed, InvalidRequest, ModelUnavailable, WorkerLost
from shoal.load_balancer import POLICIES
from shoal.messages import Chunk, Generate, Infer, Inferred, ModelInfo
from shoal.model_registry import ModelSpec
from shoal.router import Reason, sharding
from shoal.types import (
    ModelId,
    ModelKind,
    ModelName,
    ModelPart,
    ModelState,
    RequestId,
    Sampling,
    TextPrompt,
    WorkerId,
    WorkerState,
)
from shoal.worker.runtime import Send

SHARDS = ShardConfig(count=3, key="id")
TABLE_SPEC = ModelSpec(name=TABLE, kind=ModelKind.TENSOR, settings=ModelConfig(shards=SHARDS))
OTHER = ModelName("other")


def numbers(**settings: object) -> ModelSpec:
    return ModelSpec(name=MODEL, kind=ModelKind.GENERATE, settings=ModelConfig(**settings))  # type: ignore[arg-type]


class OtherRuntime(NumbersRuntime):
    """The same under another name."""

    def __init__(self, name: ModelName = OTHER) -> None:
        super().__init__()
        self.info = ModelInfo(name=name, kind=ModelKind.GENERATE, state=ModelState.READY)


# -- workers come and go


@pytest.mark.parametrize("balancing", POLICIES)
def test_workers_come_drain_and_die_while_requests_flow(balancing: str) -> None:
    chance = random.Random(1)

    async def trouble(f: Fleet) -> None:
        for number in range(4, 10):
            await asyncio.sleep(0.5)
            await f.add_worker(f"w{number}")
            host = f"w{number - 3}"
            if number % 2:
                f.crash(host)
            else:
                await f.workers[host].stop(timeout=10)

    async def scenario() -> None:
        async with fleet(3, [numbers(balancing=balancing)]) as f:
            troubling = asyncio.create_task(trouble(f))
            asked = []
            for _ in range(400):
                asked.append(asyncio.create_task(f.ask(chance.randint(1, 10))))
                await asyncio.sleep(0.01)
            results = await asyncio.gather(*asked, return_exceptions=True)
            await troubling
            lost = [result for result in results if not isinstance(result, str)]
            assert all(isinstance(error, WorkerLost) for error in lost)  # begun on a worker that crashed
            assert len(lost) < 40
            assert all(result == counting(result.count(" ")) for result in results if isinstance(result, str))
            assert f.runtimes["w9"].steps > 0
            f.assert_nothing_is_left()

    simulate(scenario())


# -- zones


def test_requests_stay_in_the_coordinators_zone_and_spill_over_when_it_is_full_or_away() -> None:
    async def scenario() -> None:
        async with fleet(zone="east") as f:
            await f.add_worker("near", zone="east", capacity=4)
            await f.add_worker("far", zone="west", capacity=4)
            await f.until_ready(2)
            assert await asyncio.gather(*(f.ask() for _ in range(4))) == [counting(5)] * 4
            assert f.runtimes["far"].steps == 0
            assert f.decisions()[0].reason is Reason.SAME_ZONE
            await asyncio.sleep(1)
            assert await asyncio.gather(*(f.ask() for _ in range(8))) == [counting(5)] * 8
            assert f.runtimes["far"].steps == 20
            assert (f.decisions()[0].reason, f.decisions()[0].zone) == (Reason.OTHER_ZONE, "west")
            f.crash("near")
            await asyncio.sleep(0.1)
            assert await f.ask() == counting(5)
            assert f.runtimes["far"].steps == 25

    simulate(scenario())


def test_a_worker_gets_work_as_its_configured_weight_says() -> None:
    async def scenario() -> None:
        async with fleet(specs=[numbers(balancing="weighted_round_robin")]) as f:
            await f.add_worker("heavy", weight=3.0)
            await f.add_worker("light")
            await f.until_ready(2)
            for _ in range(40):
                await f.ask(1)
            assert (f.runtimes["heavy"].steps, f.runtimes["light"].steps) == (30, 10)

    simulate(scenario())


# -- silence


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_that_falls_silent_gets_no_requests_within_a_second_and_is_back_with_its_first_word(
    busy: bool,
) -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            asked = [asyncio.create_task(f.ask(400)) for _ in range(2 * busy)]
            await asyncio.sleep(3.3)
            began = now()
            f.network.faults("w1").stall()  # as SIGSTOP: nobody is told, connections stand
            while not any(member.suspect for member in f.coordinator.fleet.members()):
                await asyncio.sleep(0.01)
            assert now() - began < (0.7 if busy else 1.0)
            steps = f.runtimes["w1"].steps
            assert await asyncio.gather(*(f.ask() for _ in range(10))) == [counting(5)] * 10
            assert f.runtimes["w1"].steps - steps < 100  # its own requests went on, no new one came
            f.network.faults("w1").heal()
            await asyncio.sleep(0.06)
            assert not any(member.suspect for member in f.coordinator.fleet.members())
            assert await asyncio.gather(*asked) == [counting(400)] * len(asked)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_breath_too_long_of_the_only_worker_fails_nobody() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            f.network.faults("w1").stall()
            await asyncio.sleep(1.5)
            assert all(member.suspect for member in f.coordinator.fleet.members())
            asked = asyncio.create_task(f.ask())
            await asyncio.sleep(0.5)
            f.network.faults("w1").heal()
            assert await asked == counting(5)
            assert f.decisions()[0].reason is Reason.SUSPECT

    simulate(scenario())


def test_a_worker_that_is_full_for_long_is_overloaded_and_never_taken_for_dead() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            asked = [asyncio.create_task(f.ask(500)) for _ in range(64)]  # all that it takes
            await asyncio.sleep(0.1)
            for _ in range(90):
                (only,) = f.coordinator.fleet.members()
                assert (only.suspect, only.state) == (False, WorkerState.OVERLOADED)
                await asyncio.sleep(0.1)
            await asyncio.gather(*asked)

    simulate(scenario())


def test_many_idle_workers_are_watched_and_none_is_suspected() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            for number in range(200):
                await f.add_worker(f"w{number}")
            await f.until_ready(200)
            await asyncio.sleep(5)
            assert not any(member.suspect or member.probed for member in f.coordinator.fleet.members())

    simulate(scenario())


# -- shards


async def add_shards(f: Fleet, *hosts: tuple[str, int]) -> None:
    for host, shard in hosts:
        await f.add_worker(host, runtime=ShardRuntime(shard))
    await f.until_ready(len(f.workers))


IDS = list(range(40))
SHARD_OF = [sharding(SHARDS)(row) for row in IDS]


def test_rows_are_scattered_to_their_shards_and_gathered_in_order() -> None:
    async def scenario() -> None:
        async with fleet(specs=[TABLE_SPEC]) as f:
            await add_shards(f, ("a", 0), ("b", 1), ("c", 2))
            began = now()
            answer = await f.look_up(IDS)
            assert now() - began < 3 * 0.02  # side by side
            np.testing.assert_array_equal(answer["echo"], IDS)
            np.testing.assert_array_equal(answer["shard"], SHARD_OF)
            assert {decision.shard for decision in f.decisions()} == {0, 1, 2}

    simulate(scenario())


def test_a_shard_that_dies_is_answered_for_by_its_replica() -> None:
    async def scenario() -> None:
        async with fleet(specs=[TABLE_SPEC]) as f:
            await add_shards(f, ("a", 0), ("b", 1), ("c", 2), ("c2", 2))
            asked = [asyncio.create_task(f.look_up(IDS)) for _ in range(10)]
            await asyncio.sleep(0.01)
            f.crash("c")
            for answer in await asyncio.gather(*asked):
                np.testing.assert_array_equal(answer["shard"], SHARD_OF)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_a_shard_that_is_nowhere_fails_the_request_by_name_and_the_others_are_cancelled() -> None:
    async def scenario() -> None:
        async with fleet(specs=[TABLE_SPEC]) as f:
            await add_shards(f, ("a", 0), ("b", 1), ("c", 2))
            assert f.coordinator.plane.ready()
            f.crash("b")
            await asyncio.sleep(0.1)
            assert not f.coordinator.plane.ready()
            with pytest.raises(
                ModelUnavailable, match=r"^shard 1 of model 'table' is ready nowhere: worker.* has gone"
            ):
                await f.look_up(IDS)
            await asyncio.sleep(0.01)
            f.assert_nothing_is_left()
            only = [row for row, shard in zip(IDS, SHARD_OF, strict=True) if shard != 1]
            np.testing.assert_array_equal((await f.look_up(only))["echo"], only)

    simulate(scenario())


def test_a_shard_that_refuses_its_rows_says_so_and_stops_the_others_work() -> None:
    async def scenario() -> None:
        async with fleet(specs=[TABLE_SPEC]) as f:
            await f.add_worker("b", runtime=ShardRuntime(1, fails=True))
            await add_shards(f, ("a", 0), ("c", 2))
            with pytest.raises(InvalidRequest, match="shard 1 of model 'table': this shard takes no such rows"):
                await f.look_up(IDS)
            await asyncio.sleep(0.01)
            f.assert_nothing_is_left()
            assert f.runtimes["a"].steps == f.runtimes["c"].steps == 0

    simulate(scenario())


# -- fallback models


async def answers(f: Fleet) -> set[str]:
    """The model that answered in place of the one asked for, in each part of an answer."""
    request = Generate(RequestId("asked"), MODEL, TextPrompt("count"), Sampling(max_tokens=3))
    return {chunk.fallback async for chunk in f.coordinator.plane.generate(request)}


def test_a_fallback_model_answers_when_the_one_asked_for_is_nowhere_and_says_so() -> None:
    async def scenario() -> None:
        async with fleet(specs=[numbers(fallback=("missing", OTHER))]) as f:
            await f.add_worker("w1", runtime=OtherRuntime())
            await f.until_ready(1)
            assert await answers(f) == {"other@1"}
            (decision,) = f.coordinator.dispatcher.decision(RequestId("asked"))
            assert decision.reason is Reason.FALLBACK_MODEL
            assert (decision.model.name, decision.instead_of and decision.instead_of.name) == (OTHER, MODEL)
            metrics = f.coordinator.metrics.render().decode()
            assert 'model="numbers",policy="least_connections",reason="fallback_model"' in metrics
            await f.add_worker("w2")
            await f.until_ready(2)
            assert await answers(f) == {""}

    simulate(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_http_is_told_which_fallback_model_answered(stream: bool) -> None:
    async def scenario() -> None:
        async with fleet(specs=[numbers(fallback=(OTHER,))]) as f:
            await f.add_worker("w1", runtime=OtherRuntime())
            await f.until_ready(1)
            client = AsgiClient(build_app(f.coordinator.plane, metrics=bytes))
            for model, fallback in ((OTHER, None), (MODEL, "other@1")):
                body = {"model": model, "prompt": "count", "max_tokens": 3, "stream": stream}
                answer = await client.request("POST", "/v1/completions", json=body)
                assert (answer.status, answer.headers.get("x-fallback")) == (200, fallback)
                assert f'"model":"{model}"'.encode() in answer.body

    simulate(scenario())


def test_a_fallback_model_answers_when_the_one_asked_for_is_full_or_fails() -> None:
    async def scenario() -> None:
        async with fleet(specs=[numbers(fallback=(OTHER,))]) as f:
            await f.add_worker("full", capacity=1)
            await f.add_worker("other", runtime=OtherRuntime())
            await f.until_ready(2)
            first = asyncio.create_task(f.ask(50))
            await asyncio.sleep(0.1)
            assert await answers(f) == {"other@1"}
            assert await first == counting(50)
            f.runtimes["full"]._breaks_at = 0
            await asyncio.sleep(0.2)
            assert await answers(f) == {"other@1"}

    simulate(scenario())


def test_when_nothing_is_left_the_error_names_each_model_and_why() -> None:
    async def scenario() -> None:
        specs = [numbers(fallback=(OTHER, "nowhere", TABLE)), TABLE_SPEC]
        specs.append(ModelSpec(name=OTHER, kind=ModelKind.GENERATE, settings=ModelConfig(fallback=(MODEL,))))
        async with fleet(specs=specs) as f:
            with pytest.raises(ModelUnavailable) as caught:
                await f.ask()
            assert caught.value.message.startswith("model 'numbers' is ready nowhere: no worker has it")
            assert "in its place 'other': model 'other' is ready nowhere: no worker has it" in caught.value.message
            assert "in its place 'nowhere': there is no model 'nowhere'" in caught.value.message
            assert "in its place 'table': it is for other requests than 'numbers' is" in caught.value.message
            await f.add_worker("w1", capacity=1)
            await f.until_ready(1)
            running = asyncio.create_task(f.ask(50))
            await asyncio.sleep(0.1)
            with pytest.raises(DeadlineExceeded, match="waited for a worker"):
                await f.ask(timeout=0.2)
            await running

    simulate(scenario())


def test_a_fallback_model_goes_before_a_silent_worker_and_a_silent_worker_before_an_error() -> None:
    async def scenario() -> None:
        async with fleet(specs=[numbers(fallback=(OTHER,))]) as f:
            await f.add_worker("w1")
            other = await f.add_worker("w2", runtime=OtherRuntime())
            await f.until_ready(2)
            f.network.faults("w1").stall()
            await asyncio.sleep(1.2)
            assert await answers(f) == {"other@1"}
            await other.stop()
            asked = asyncio.create_task(answers(f))
            await asyncio.sleep(0.2)
            f.network.faults("w1").heal()
            assert await asked == {""}

    simulate(scenario())


class Picky(NumbersRuntime):
    """Fails at every request for 13 tokens."""

    async def generate(self, request: Generate, *, deadline: float | None) -> AsyncGenerator[Chunk, None]:
        if request.sampling.max_tokens == 13:
            raise EngineFailed("it cannot count to thirteen")
        async with aclosing(super().generate(request, deadline=deadline)) as chunks:
            async for chunk in chunks:
                yield chunk


def test_requests_that_every_engine_fails_at_do_not_take_the_workers_from_the_others() -> None:
    async def scenario() -> None:
        async with fleet() as f:
            for host in ("w1", "w2"):
                await f.add_worker(host, runtime=Picky())
            await f.until_ready(2)
            for _ in range(20):
                bad = [asyncio.create_task(f.ask(13)) for _ in range(4)]
                assert await f.ask(2) == counting(2)
                for error in await asyncio.gather(*bad, return_exceptions=True):
                    assert isinstance(error, EngineFailed)
            assert await f.ask(2) == counting(2)
            assert f.decisions()[-1].reason is Reason.EJECTED

    simulate(scenario())


# -- what is remembered


def test_of_decisions_the_last_thousand_requests_are_kept_with_every_attempt() -> None:
    async def scenario() -> None:
        async with fleet(1) as f:
            await f.add_worker("w2", breaks_at=0)
            await f.until_ready(2)
            seen = Counter[int]()
            for _ in range(6):
                await f.ask(1)
                seen[len(f.decisions())] += 1
            assert seen[2] >= 1  # failed on one, answered by the other
            assert f.decisions()[-1].worker_id in {WorkerId(m.worker_id) for m in f.coordinator.fleet.members()}
            for _ in range(1025):
                await f.ask(1)
            assert f.decisions()
            assert f.coordinator.dispatcher.decision(RequestId("request-1")) == ()

    simulate(scenario())


# -- a second worker


class Looking(NumbersRuntime):
    """Answers rows of :data:`TABLE` after some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.info = ModelInfo(name=TABLE, kind=ModelKind.TENSOR, state=ModelState.READY)
        self._seconds = seconds

    async def infer(self, request: Infer, send: Send, *, deadline: float | None) -> None:
        self.running.add(request.request_id)
        try:
            await asyncio.sleep(self._seconds)
            await send(Inferred(request.inputs))
        finally:
            self.running.discard(request.request_id)


def test_a_slow_worker_is_helped_by_a_second_one_and_stops() -> None:
    hedge = HedgeConfig(quantile=0.9, share=0.5)
    spec = ModelSpec(name=TABLE, kind=ModelKind.TENSOR, settings=ModelConfig(hedge=hedge, balancing="round_robin"))

    async def scenario() -> None:
        async with fleet(0, [spec]) as f:
            for name in ("a", "b", "c"):
                await f.add_worker(name, runtime=Looking(0.1))
            await f.until_ready(3)
            for _ in range(40):
                await f.look_up([1])
            await f.add_worker("slow", runtime=Looking(50.0))
            await f.until_ready(4)
            began = now()
            for _ in range(100):
                await f.look_up([1])
            assert now() - began < 100 * 0.25
            assert b'shoal_hedged_total{model="table",winner="second"}' in f.coordinator.metrics.render()
            await asyncio.sleep(1)
            f.assert_nothing_is_left()

    simulate(scenario())


def test_of_hedged_requests_that_come_together_none_is_sent_to_a_full_worker() -> None:
    spec = ModelSpec(name=TABLE, kind=ModelKind.TENSOR, settings=ModelConfig(hedge=HedgeConfig()))

    async def scenario() -> None:
        async with fleet(0, [spec]) as f:
            for name in ("a", "b"):
                await f.add_worker(name, runtime=Looking(0.1), capacity=1)
            await f.until_ready(2)
            answers = await asyncio.gather(*(f.look_up([number]) for number in range(10)))
            assert [answer["id"].tolist() for answer in answers] == [[number] for number in range(10)]
            assert b"shoal_retries_total{" not in f.coordinator.metrics.render()

    simulate(scenario())


# -- a model that is broken on one worker


def test_a_model_that_fails_on_a_worker_leaves_it_to_the_others() -> None:
    async def scenario() -> None:
        async with fleet(2) as f:
            f.runtimes["w1"]._breaks_at = 0
            for _ in range(20):
                assert await f.ask(1) == counting(1)
            member = next(
                member for member in f.coordinator.fleet.members() if member.worker_id.startswith("worker-w1")
            )
            replica, health = next(iter(member.replicas.values())), f.coordinator.dispatcher._sender._health
            assert not health.available(member.worker_id, replica.part, now())
            assert health.is_back(member.worker_id, now())
            assert health.available(member.worker_id, ModelPart(ModelId(OTHER)), now())

    simulate(scenario())
