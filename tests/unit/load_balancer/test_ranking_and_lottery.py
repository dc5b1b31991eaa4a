from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.load_balancer.fakes import FakeWorker, grown

from shoal.load_balancer.latency import PeakEwma
from shoal.load_balancer.lottery import Lottery
from shoal.load_balancer.ranking import Ranking
from shoal.types import WorkerId

REPLICAS = [grown(FakeWorker(WorkerId(f"w{number}"))) for number in range(20)]


@given(st.lists(st.tuples(st.integers(0, 19), st.none() | st.integers(0, 99)), max_size=300))
def test_a_ranking_has_the_least_key_of_those_that_are_in_it(steps: list[tuple[int, int | None]]) -> None:
    ranking, keys = Ranking(), dict[int, int]()
    for number, key in steps:
        if key is None:
            ranking.discard(REPLICAS[number])
            keys.pop(number, None)
        else:
            ranking.put(REPLICAS[number], (key,))
            keys[number] = key
        first = ranking.first(())
        assert (first is None) == (not keys)
        assert first is None or keys[REPLICAS.index(first)] == min(keys.values())
        assert all((REPLICAS[number] in ranking) == (number in keys) for number in range(20))


def test_outdated_entries_of_a_ranking_do_not_pile_up() -> None:
    ranking = Ranking()
    for turn in range(10_000):
        for number in range(3):
            ranking.put(REPLICAS[number], (turn,))
    assert len(ranking._heap) < 200


def test_what_was_excluded_once_is_found_again() -> None:
    ranking = Ranking()
    for number in range(3):
        ranking.put(REPLICAS[number], (number,))
    assert ranking.first({WorkerId("w0"), WorkerId("w1")}) is REPLICAS[2]
    assert ranking.first(()) is REPLICAS[0]


@given(st.lists(st.tuples(st.integers(0, 19), st.none() | st.integers(1, 9)), max_size=100), st.integers(0, 99))
def test_a_lottery_keeps_its_sums_and_draws_only_who_is_in_it(steps: list[tuple[int, int | None]], seed: int) -> None:
    lottery, weights = Lottery(random.Random(seed)), dict[int, int]()
    for number, weight in steps:
        if weight is None:
            lottery.discard(REPLICAS[number])
            weights.pop(number, None)
        else:
            lottery.put(REPLICAS[number], weight)
            weights[number] = weight
        drawn = {REPLICAS.index(replica) for replica in lottery.draw(3, {WorkerId("w0")})}
        assert drawn <= weights.keys() - {0}
        assert len(drawn) == min(3, len(weights.keys() - {0}))
        assert lottery._tree[-1] == 1024 * sum(weights.values())


def test_a_lottery_draws_as_the_weights_say_also_after_they_changed() -> None:
    lottery = Lottery(random.Random(1))
    for replica in REPLICAS[:10]:
        lottery.put(replica, 5)
    for number, replica in enumerate(REPLICAS[:10]):
        lottery.put(replica, number + 1)
    drawn = Counter(lottery.draw(1, ())[0].worker_id for _ in range(11_000))
    for number in range(10):
        assert drawn[WorkerId(f"w{number}")] == pytest.approx(200 * (number + 1), rel=0.25)


def test_a_peak_shows_at_once_and_is_forgotten_slowly() -> None:
    latency = PeakEwma()
    assert (latency.is_known, latency.seconds(0.0)) == (False, 0.0)
    latency.observe(0.1, 0.0)
    latency.observe(2.0, 1.0)
    assert latency.seconds(1.0) == 2.0
    latency.observe(0.1, 2.0)
    assert 1.7 < latency.seconds(2.0) < 2.0
    assert latency.seconds(12.0) == pytest.approx(latency.seconds(2.0) / 2.718, rel=0.01)
    for second in range(3, 60):
        latency.observe(0.1, float(second))
    assert latency.seconds(60.0) == pytest.approx(0.1, rel=0.2)


def test_an_answer_that_has_not_come_says_how_slow_it_is_at_least() -> None:
    latency = PeakEwma()
    latency.waited(5.0, 5.0)
    assert not latency.is_known  # a request that was cancelled says nothing about the others
    latency.observe(0.1, 6.0)
    latency.waited(0.05, 6.0)
    assert latency.seconds(6.0) == 0.1
    latency.waited(3.0, 9.0)
    assert latency.seconds(9.0) == 3.0
