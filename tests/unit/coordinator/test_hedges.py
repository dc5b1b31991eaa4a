"""Two workers for one request: the first answer counts, the other one is given up, an error waits for the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shoal.clock import ManualClockLoop
from shoal.coordinator.hedges import Hedges, NobodyElse
from shoal.errors import EngineFailed
from shoal.load_balancer import Hedging
from shoal.messages import Inferred


class Worker:
    """Answers with its name after some seconds, or fails then."""

    def __init__(self, name: str, seconds: float, *, fails: bool = False) -> None:
        self.name = name
        self.seconds = seconds
        self.fails = fails
        self.outcome = "not asked"

    async def ask(self) -> Inferred:
        self.outcome = "given up"
        await asyncio.sleep(self.seconds)
        self.outcome = "answered"
        if self.fails:
            raise EngineFailed(f"{self.name} is broken")
        return Inferred({"name": np.array([self.name])})


def settled(seconds: float = 0.1) -> Hedging:
    """Knows that answers take so long."""
    hedging = Hedging(0.9, 0.5)
    for _ in range(50):
        hedging.observe(seconds)
    return hedging


Run = Callable[[Worker, Worker | None], tuple[str, list[str]]]


@pytest.fixture
def run() -> Iterator[Run]:
    loop = ManualClockLoop()

    def first(one: Worker, two: Worker | None) -> tuple[str, list[str]]:
        told: list[str] = []
        hedges = Hedges(lambda model, winner: told.append(winner))

        async def another() -> Inferred:
            if two is None:
                raise NobodyElse
            return await two.ask()

        answer = loop.run_until_complete(hedges.first(settled(), "m", one.ask(), another))
        assert not asyncio.all_tasks(loop)
        return str(answer.outputs["name"][0]), told

    yield first
    loop.close()


def test_a_quick_answer_is_all_there_is(run: Run) -> None:
    second = Worker("b", 0.01)
    assert run(Worker("a", 0.05), second) == ("a", [])
    assert second.outcome == "not asked"


def test_a_second_worker_answers_for_a_slow_one_which_is_given_up(run: Run) -> None:
    first = Worker("a", 9.0)
    assert run(first, Worker("b", 0.05)) == ("b", ["second"])
    assert first.outcome == "given up"


def test_a_first_worker_that_is_quicker_after_all_counts(run: Run) -> None:
    second = Worker("b", 9.0)
    assert run(Worker("a", 0.2), second) == ("a", ["first"])
    assert second.outcome == "given up"


def test_where_there_is_no_other_the_slow_one_is_waited_for(run: Run) -> None:
    assert run(Worker("a", 9.0), None) == ("a", [])


@pytest.mark.parametrize("broken", [0, 1])
def test_the_failure_of_one_of_two_waits_for_the_other(run: Run, broken: int) -> None:
    workers = [Worker("a", 0.2, fails=broken == 0), Worker("b", 0.3, fails=broken == 1)]
    assert run(*workers)[0] == "ab"[1 - broken]


def test_when_both_fail_it_is_the_first_ones_error(run: Run) -> None:
    with pytest.raises(EngineFailed, match="a is broken"):
        run(Worker("a", 0.3, fails=True), Worker("b", 0.1, fails=True))
