"""Requests that wait for their turn at a worker, over a fleet that is a number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from shoal.clock import ManualClockLoop, now
from shoal.config import ModelConfig, TenantConfig
from shoal.coordinator.admission import Admission, Turn, Turns
from shoal.coordinator.admission.turn import WaitingTurn
from shoal.coordinator.admission.turns import PATIENCE
from shoal.errors import DeadlineExceeded, ModelNotFound, Overloaded
from shoal.load_balancer import Room
from shoal.messages import Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec
from shoal.types import FinishReason, ModelKind, ModelName, RequestId, Sampling, TextPrompt, Usage

FISH = ModelSpec(name=ModelName("fish"), kind=ModelKind.TENSOR, batchable=True)
TALKER = ModelSpec(name=ModelName("talker"), kind=ModelKind.GENERATE)
DONE = Inferred({})


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def watched() -> None:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        await test()
        assert not errors

    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(watched())


class Pond:
    """A fleet with room for so many rows of each model, and the turns at it."""

    def __init__(self, rows: int = 1, *, most: int = 1000, **tenants: TenantConfig) -> None:
        self.rooms = {FISH.id: Room(rows, rows, is_free=True), TALKER.id: Room(rows, rows, is_free=True)}
        self.specs = {"fish": FISH, "talker": TALKER}
        self.waiting: dict[str, int] = {}
        self.order: list[str] = []
        self.admission = Admission(most, tenants=tenants)
        self.turns = Turns(self, self.admission, resolve=self.resolve, observe=self.waiting.__setitem__)

    def room(self, spec: ModelSpec) -> Room:
        return self.rooms.get(spec.id, Room())

    def resolve(self, name: str) -> ModelSpec:
        if name not in self.specs:
            raise ModelNotFound
        return self.specs[name]

    def enter(
        self, tenant: str = "", *, rows: int = 1, within: float = 100.0, priority: int = 0, spec: ModelSpec = FISH
    ) -> Turn:
        request = Infer(RequestId("r"), spec.name, {"x": np.zeros((rows, 1))}, tenant=tenant, priority=priority)
        return self.turns.enter(request, spec, now() + within)

    async def ask(self, tenant: str = "", *, takes: float = 1.0, **asked: Any) -> str:
        """One whole request."""
        turn = self.enter(tenant, **asked)
        last = None
        try:
            if turn.waits:
                await turn.wait()
            self.order.append(tenant)
            await asyncio.sleep(takes)
            last = DONE
            return "done"
        except DeadlineExceeded:
            return "late"
        finally:
            turn.leave(last)

    def asking(self, *tenants: str, **asked: Any) -> list[asyncio.Task[str]]:
        return [asyncio.create_task(self.ask(tenant, **asked)) for tenant in tenants]

    def assert_nothing_is_left(self) -> None:
        assert not self.turns._crowds
        assert all(not line.requests and not line.places for line in self.turns._lines.values())
        assert not any(self.waiting.values())


def test_where_there_is_room_nobody_waits() -> None:
    async def test() -> None:
        pond = Pond(2)
        first, second = pond.enter(), pond.enter()
        assert not first.waits
        assert not second.waits
        third = pond.enter()
        assert third.waits
        first.leave(DONE)
        await third.wait()
        for turn in (second, third):
            turn.leave(DONE)
        pond.assert_nothing_is_left()

    run(test)


def test_who_waits_is_not_overtaken_by_who_comes_when_there_is_room() -> None:
    async def test() -> None:
        pond = Pond(4)
        running, large = pond.enter(rows=4), pond.enter(rows=4)
        pond.rooms[FISH.id] = Room(8, 8, is_free=False)
        assert pond.enter().waits
        pond.rooms[FISH.id] = Room(8, 8, is_free=True)
        pond.turns.changed()
        await large.wait()
        assert not running.waits

    run(test)


def test_places_are_rows_and_the_last_request_may_be_larger_than_what_is_left() -> None:
    async def test() -> None:
        pond = Pond(10)
        assert [pond.enter(rows=rows).waits for rows in (6, 2000, 1)] == [False, False, True]
        single = ModelSpec(name=FISH.name, kind=FISH.kind, batchable=False)
        alone = Pond(2)
        assert [alone.enter(rows=9, spec=single).waits for _ in range(3)] == [False, False, True]

    run(test)


def test_workers_that_are_full_of_something_else_are_waited_for() -> None:
    async def test() -> None:
        pond = Pond(4)
        pond.rooms[FISH.id] = Room(4, 4, is_free=False)
        turn = pond.enter()
        pond.turns.changed()
        assert turn.waits
        pond.rooms[FISH.id] = Room(4, 4, is_free=True)
        pond.turns.changed()
        await turn.wait()

    run(test)


def test_tenants_take_turns_and_the_greedy_one_waits_for_itself() -> None:
    async def test() -> None:
        pond = Pond(1, gold=TenantConfig(weight=3))
        asked = pond.asking(*["greedy"] * 40, *["polite"] * 4, *["gold"] * 12)
        await asyncio.gather(*asked)
        early = pond.order[1:21]
        assert (early.count("greedy"), early.count("polite"), early.count("gold")) == (4, 4, 12)
        pond.assert_nothing_is_left()

    run(test)


def test_the_more_urgent_of_one_tenant_goes_first() -> None:
    async def test() -> None:
        pond = Pond(1)
        pond.enter("a")
        patient, urgent, soon = pond.enter("a"), pond.enter("a", priority=1), pond.enter("a", within=4.0)
        assert [turn.waits for turn in (patient, urgent, soon)] == [True] * 3
        pond.rooms[FISH.id] = Room(2, 2, is_free=True)
        pond.turns.changed()
        assert [turn.waits for turn in (patient, urgent, soon)] == [True, False, True]
        urgent.leave(DONE)
        assert [turn.waits for turn in (patient, soon)] == [True, False]

    run(test)


def test_a_deadline_ends_the_wait_and_frees_its_place_in_the_line() -> None:
    async def test() -> None:
        pond = Pond(1)
        results = await asyncio.gather(*pond.asking("a", "b", within=0.5), *pond.asking("c", within=50.0))
        assert results == ["done", "late", "done"]
        assert pond.order == ["a", "c"]
        pond.assert_nothing_is_left()

    run(test)


def test_a_client_that_leaves_gives_its_place_to_the_next() -> None:
    async def test() -> None:
        pond = Pond(1)
        first, second, third = pond.asking("a", "b", "c")
        await asyncio.sleep(0.1)
        assert pond.waiting["fish"] == 2
        second.cancel()
        await asyncio.sleep(0.1)
        assert pond.waiting["fish"] == 1
        assert [await first, await third] == ["done", "done"]
        pond.assert_nothing_is_left()

    run(test)


def test_a_client_that_leaves_as_its_turn_comes_gives_it_back() -> None:
    async def test() -> None:
        pond = Pond(1)
        first = pond.enter()
        second, third = pond.asking("b", "c")
        await asyncio.sleep(0.1)
        first.leave(DONE)
        second.cancel()
        assert await third == "done"
        pond.assert_nothing_is_left()

    run(test)


@pytest.mark.parametrize("comes", [True, False])
def test_a_turn_leaves_no_timer_behind(comes: bool) -> None:
    """Deadlines are minutes away, and timers that nobody needs would pile up until then."""

    async def test() -> None:
        pond = Pond(1)
        first, second = pond.enter(), pond.enter()
        assert isinstance(second, WaitingTurn)
        if comes:
            first.leave(DONE)
            await second.wait()
        else:
            second.leave(None)
        assert second._timer.cancelled()

    run(test)


# -- who is refused


def test_a_full_line_refuses_at_once_and_keeps_room_for_another_tenant() -> None:
    async def test() -> None:
        pond = Pond(1, most=19)
        places = 0

        def flood(tenant: str) -> int:
            nonlocal places
            for came in range(20):
                pond.admission.in_flight = places + 1  # as the door counts it
                try:
                    pond.enter(tenant)
                except Overloaded:
                    return came
                places += 1
            raise AssertionError("there is no end")

        assert flood("greedy") == 17
        assert flood("polite") == 1
        with pytest.raises(Overloaded, match="requests wait for model 'fish', as many as may") as caught:
            pond.enter("greedy")
        assert caught.value.retry_after

    run(test)


async def saturate(pond: Pond, seconds: float = 20.0) -> list[asyncio.Task[str]]:
    """One of one row ends each second; ten wait all the time."""
    flood: list[asyncio.Task[str]] = []
    for _ in range(round(seconds)):
        while pond.waiting.get("fish", 0) < 10:
            flood += pond.asking("a")
            await asyncio.sleep(0)
        await asyncio.sleep(1)
    return flood


def test_who_cannot_make_it_is_refused_at_once_and_told_when_to_come_back() -> None:
    async def test() -> None:
        pond = Pond(1)
        flood = await saturate(pond)
        began = now()
        with pytest.raises(Overloaded, match=r"the deadline is in 5 s; model 'fish' is busy for about 9") as caught:
            pond.enter("a", within=5.0)
        assert now() == began
        assert caught.value.retry_after == pytest.approx(10, rel=0.2)
        patient = pond.enter("a", within=30.0)
        assert patient.waits
        patient.leave(None)
        polite = pond.enter("b", within=5.0)  # its wait is its own, not the flood's
        polite.leave(None)
        await asyncio.gather(*flood)
        pond.assert_nothing_is_left()

    run(test)


def test_one_whose_run_would_end_too_late_is_not_begun() -> None:
    async def test() -> None:
        pond = Pond(1)
        flood = await saturate(pond)
        for task in flood:
            task.cancel()
        await asyncio.sleep(0)
        pond.order.clear()
        first = pond.enter("a")
        waits = asyncio.create_task(pond.ask("b", within=2.2))
        await asyncio.sleep(1.5)
        first.leave(DONE)
        assert await waits == "late"
        assert pond.order == []
        pond.assert_nothing_is_left()

    run(test)


def test_who_finds_room_is_never_judged_so_that_a_wrong_estimate_heals() -> None:
    async def test() -> None:
        pond = Pond(1)
        await asyncio.gather(*pond.asking(*["a"] * 20, takes=5.0))
        running = pond.enter("a")
        with pytest.raises(Overloaded, match="then takes about 5 s"):
            pond.enter("a", within=2.0)
        running.leave(None)
        for _ in range(100):
            assert await pond.ask("a", takes=0.05, within=2.0) == "done"
        pond.enter("a")
        pond.enter("a", within=2.0).leave(None)

    run(test)


# -- workers that are lost


def test_without_a_worker_there_is_nothing_to_wait_for() -> None:
    async def test() -> None:
        pond = Pond(1)
        pond.rooms.clear()
        assert not any(pond.enter().waits for _ in range(3))

    run(test)


def test_those_who_wait_when_the_last_worker_is_lost_go_on_when_it_is_back() -> None:
    async def test() -> None:
        pond = Pond(1)
        asked = pond.asking("a", "b", "c", "d", takes=0.1)
        await asyncio.sleep(0.05)
        room = pond.rooms.pop(FISH.id)
        await asyncio.sleep(3.5)  # one of them tries each second, and finds none
        assert pond.order == ["a", "b", "c", "d"][: len(pond.order)]
        assert pond.waiting["fish"] == 0 or len(pond.order) == 4 - pond.waiting["fish"]
        pond.rooms[FISH.id] = room
        pond.turns.changed()
        await asyncio.gather(*asked)
        pond.assert_nothing_is_left()

    run(test)


def test_when_patience_is_over_all_are_told() -> None:
    async def test() -> None:
        pond = Pond(1)
        asked = pond.asking(*["a"] * 100, within=1000.0, takes=0.1)
        await asyncio.sleep(0.05)
        pond.rooms.clear()
        await asyncio.sleep(PATIENCE - 1)
        assert 60 < pond.waiting["fish"] < 80
        await asyncio.sleep(3)
        assert all(task.done() for task in asked)
        pond.assert_nothing_is_left()

    run(test)


def test_what_a_fallback_model_can_take_does_not_wait() -> None:
    async def test() -> None:
        pond = Pond(1)
        spec = ModelSpec(
            name=FISH.name, kind=FISH.kind, batchable=True, settings=ModelConfig(fallback=("nowhere", "talker"))
        )
        assert [pond.enter(spec=spec).waits for _ in range(3)] == [False] * 3
        pond.rooms[TALKER.id] = Room(1, 1, is_free=False)
        assert pond.enter(spec=spec).waits

    run(test)


# -- language models


def test_a_tenant_pays_for_the_tokens_it_really_used() -> None:
    async def test() -> None:
        pond, order = Pond(1), list[str]()

        async def ask(tenant: str, used: int) -> None:
            request = Generate(RequestId("r"), TALKER.name, TextPrompt("talk"), Sampling(max_tokens=99), tenant=tenant)
            turn = pond.turns.enter(request, TALKER, now() + 1000)
            await turn.wait()
            order.append(tenant)
            await asyncio.sleep(1)
            turn.leave(Chunk("", (), finish_reason=FinishReason.STOP, usage=Usage(1, used - 1)))

        asked = [asyncio.create_task(ask("long", 100)) for _ in range(12)]
        asked += [asyncio.create_task(ask("short", 25)) for _ in range(40)]
        await asyncio.gather(*asked)
        assert order[10:30].count("short") in (15, 16, 17)
        pond.assert_nothing_is_left()

    run(test)
