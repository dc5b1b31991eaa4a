"""Who is let in, and what those are told who are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shoal.clock import ManualClockLoop
from shoal.config import LimitConfig, ModelConfig, TenantConfig
from shoal.coordinator.admission import Admission
from shoal.coordinator.admission.door import _KEPT
from shoal.errors import Draining, Overloaded, PayloadTooLarge
from shoal.messages import Generate
from shoal.model_registry import ModelSpec
from shoal.types import ModelKind, ModelName, RequestId, Sampling, TokenPrompt

FISH = ModelSpec(name=ModelName("fish"), kind=ModelKind.GENERATE)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(test())


def asked(tenant: str = "", max_tokens: int = 9) -> Generate:
    return Generate(RequestId("r"), FISH.name, TokenPrompt((1,)), Sampling(max_tokens=max_tokens), tenant=tenant)


def limited(**limits: Any) -> ModelSpec:
    return ModelSpec(name=FISH.name, kind=FISH.kind, settings=ModelConfig(limits=LimitConfig(**limits)))


class Door(Admission):
    def __init__(self, most: int = 100, **tenants: TenantConfig) -> None:
        self.told: list[tuple[str, str]] = []
        super().__init__(most, tenants=tenants, rejected=lambda *why: self.told.append(why))


def test_beyond_the_bound_of_all_nobody_is_let_in_until_one_leaves() -> None:
    async def test() -> None:
        door = Door(2)
        first, _ = door.enter(asked(), FISH), door.enter(asked(), FISH)
        with pytest.raises(Overloaded, match="the server is at its limit of 2 requests at a time") as caught:
            door.enter(asked("a"), FISH)
        assert caught.value.retry_after
        assert (door.in_flight, door.free, door.told) == (2, 0, [("max_in_flight", "a")])
        first.leave()
        door.enter(asked(), FISH)

    run(test)


def test_every_tenant_that_is_not_named_has_the_default_for_itself() -> None:
    async def test() -> None:
        door = Door(default=TenantConfig(requests=1), gold=TenantConfig(requests=2, weight=3))
        for tenant in ("a", "b", "", "gold", "gold"):
            door.enter(asked(tenant), FISH)
        for tenant in ("a", "b", "", "gold"):
            with pytest.raises(Overloaded, match="requests at a time"):
                door.enter(asked(tenant), FISH)
        assert door.told == [("tenant_requests", tenant) for tenant in ("a", "b", "", "gold")]
        assert door.in_flight == 5
        assert (door.weight("gold"), door.weight("a"), Door().weight("a")) == (3, 1, 1)

    run(test)


def test_a_models_bound_is_for_all_its_tenants_together() -> None:
    async def test() -> None:
        door, spec = Door(), limited(tokens=25)
        places = [door.enter(asked("a"), spec), door.enter(asked("b"), spec)]
        with pytest.raises(Overloaded, match=r"model 'fish' is at its limit of 25 tokens at a time \(20 now\)"):
            door.enter(asked("c"), spec)
        door.enter(asked("c"), ModelSpec(name=ModelName("other"), kind=FISH.kind))
        places[0].leave()
        door.enter(asked("c"), spec)

    run(test)


def test_one_that_is_refused_by_the_second_bound_takes_nothing_of_the_first() -> None:
    async def test() -> None:
        door, spec = Door(default=TenantConfig(requests_per_second=1)), limited(requests=1)
        place = door.enter(asked("a"), spec)
        for _ in range(3):
            with pytest.raises(Overloaded, match="model 'fish'"):
                door.enter(asked("b"), spec)
        place.leave()
        door.enter(asked("b"), spec)

    run(test)


def test_what_never_fits_is_no_matter_of_time() -> None:
    async def test() -> None:
        with pytest.raises(PayloadTooLarge, match="may have 5 tokens at a time; this request has 10"):
            Door(default=TenantConfig(tokens=5)).enter(asked("a"), FISH)

    run(test)


def test_what_was_used_is_charged() -> None:
    async def test() -> None:
        door = Door(default=TenantConfig(tokens_per_second=10))
        door.enter(asked("a"), FISH).leave(used=30)
        with pytest.raises(Overloaded, match="10 tokens a second") as caught:
            door.enter(asked("a"), FISH)
        assert caught.value.retry_after == pytest.approx(3)
        await asyncio.sleep(3)
        door.enter(asked("a"), FISH)

    run(test)


def test_a_drain_waits_for_those_inside_and_lets_nobody_in() -> None:
    async def test() -> None:
        door = Door()
        place = door.enter(asked(), FISH)
        draining = asyncio.create_task(door.drain(60))
        await asyncio.sleep(1)
        with pytest.raises(Draining):
            door.enter(asked(), FISH)
        assert not draining.done()
        assert door.told == [("draining", "")]
        place.leave()
        await asyncio.wait_for(draining, 1)

    run(test)


def test_tenants_that_came_once_leave_nothing_behind() -> None:
    async def test() -> None:
        door = Door(default=TenantConfig(requests=1, requests_per_second=1))
        for number in range(2 * _KEPT):
            door.enter(asked(f"tenant {number}"), FISH).leave()
            await asyncio.sleep(0.01)
        assert len(door._bounds) <= _KEPT

    run(test)


def test_the_generations_of_one_request_are_let_in_together_or_not_at_all() -> None:
    async def test() -> None:
        door = Door(default=TenantConfig(requests=3, tokens=100))
        one = door.enter(asked("a"), FISH)
        with pytest.raises(Overloaded, match=r"3 requests at a time \(1 now\)"):
            door.enter_together([asked("a")] * 3, FISH)
        assert door.in_flight == 1
        one.leave()
        places = door.enter_together([asked("a")] * 3, FISH)
        assert door.in_flight == 3
        places[0].leave(used=5)
        for place in places:  # whoever entered for all of them leaves for all
            place.leave()
        assert door.in_flight == 0
        door.enter_together([asked("a")] * 3, FISH)
        assert door.told == [("tenant_requests", "a")]

    run(test)


@pytest.mark.parametrize(
    ("door", "why"),
    [
        (Door(default=TenantConfig(requests=2)), "may have 2 requests at a time; this request has 3"),
        (Door(default=TenantConfig(tokens=29)), "may have 29 tokens at a time; this request has 30"),
        (Door(2), "may have 2 requests at a time; this one has 3"),
    ],
)
def test_generations_that_never_fit_together_are_no_matter_of_time(door: Door, why: str) -> None:
    async def test() -> None:
        with pytest.raises(PayloadTooLarge, match=why):
            door.enter_together([asked("a")] * 3, FISH)
        assert door.in_flight == 0

    run(test)


def test_generations_that_are_more_than_a_rates_burst_leave_a_debt() -> None:
    async def test() -> None:
        door = Door(default=TenantConfig(requests_per_second=1))
        for place in door.enter_together([asked("a")] * 3, FISH):
            place.leave()
        with pytest.raises(Overloaded, match="1 requests a second") as caught:
            door.enter_together([asked("a")] * 3, FISH)
        assert caught.value.retry_after == pytest.approx(3)
        await asyncio.sleep(3)
        door.enter_together([asked("a")] * 3, FISH)

    run(test)
