from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shoal.batcher.policy import MAX_PRIORITY
from shoal.types import Sampling
from shoal.worker.generation.blocks import BlockPool
from shoal.worker.generation.preemption import PROMOTION, Need, Way, gives_way, in_order, make_way, standing
from shoal.worker.generation.sequence import TokenSequence


def sequence(priority: int = 0, blocks: Sequence[int] = (), *, gained: int = 0) -> TokenSequence:
    made = TokenSequence((1,), Sampling(), 10, priority=priority, blocks=list(blocks))
    made.standing = standing(made, gained * PROMOTION)
    return made


def way_for(newcomer: TokenSequence, need: Need, pool: BlockPool, **others: Any) -> Way | None:
    return make_way(newcomer, need, **{"running": [], "parked": [], "growing": (), "pool": pool, **others})


def held(pool: BlockPool, count: int) -> list[int]:
    blocks = pool.acquire((), count)
    assert blocks is not None
    return blocks


PLACE = Need(place=True, blocks=0)


def test_for_a_place_the_lowest_gives_way_and_among_equals_the_one_let_in_last() -> None:
    low, first, last = sequence(-1), sequence(0), sequence(0)
    pool = BlockPool(4)
    way = way_for(sequence(1), PLACE, pool, running=in_order([low, first, last]))
    assert way == Way(park=[low])
    assert way_for(sequence(1), PLACE, pool, running=in_order([first, last])) == Way(park=[last])


def test_nobody_gives_way_to_its_own_class_or_a_lower_one() -> None:
    running = [sequence(1), sequence(2)]
    assert way_for(sequence(1), PLACE, BlockPool(4), running=in_order(running)) is None


def test_age_holds_on_to_a_place_but_takes_none() -> None:
    patient = sequence(0, gained=3)
    assert not gives_way(patient, sequence(3))
    assert gives_way(patient, sequence(4))
    assert not gives_way(sequence(0), patient)


def test_whoever_has_waited_out_all_classes_gives_way_to_nobody() -> None:
    assert not gives_way(sequence(-(10**6), gained=2 * MAX_PRIORITY), sequence(10**6))


def test_the_parked_lose_their_blocks_before_anybody_is_parked() -> None:
    pool = BlockPool(6)
    parked, running = sequence(0, held(pool, 3)), sequence(0, held(pool, 3))
    newcomer, others = sequence(5), {"parked": [parked], "running": [running]}
    assert way_for(newcomer, Need(place=False, blocks=3), pool, **others) == Way(drop=[parked])
    assert way_for(newcomer, Need(place=False, blocks=4), pool, **others) == Way(park=[running], drop=[parked, running])


def test_the_blocks_of_the_parked_are_there_for_equals_too() -> None:
    pool = BlockPool(3)
    parked = sequence(0, held(pool, 3))
    assert way_for(sequence(0), Need(place=False, blocks=3), pool, parked=[parked]) == Way(drop=[parked])


def test_nobody_gives_up_anything_if_it_were_not_enough() -> None:
    pool = BlockPool(8)
    equal, low, parked = (sequence(priority, held(pool, 2)) for priority in (5, 0, 0))
    running = in_order([equal, low])
    assert way_for(sequence(5), Need(place=True, blocks=5), pool, running=running, parked=[parked]) is None


def test_blocks_that_several_hold_are_free_when_the_last_lets_go() -> None:
    pool = BlockPool(3)
    shared = held(pool, 3)
    pool.acquire(shared, 0)
    first, second = sequence(0, shared), sequence(0, shared)
    need = Need(place=False, blocks=1)
    assert way_for(sequence(5), need, pool, running=[first]) is None
    assert way_for(sequence(5), need, pool, running=[first, second]) == Way([second, first], [second, first])
    need = Need(place=False, blocks=1, shared=frozenset(shared))
    assert way_for(sequence(5), need, pool, running=[first, second]) is None


def test_a_block_that_was_kept_for_the_growth_of_a_victim_is_kept_no_more() -> None:
    low, pool = sequence(0), BlockPool(4)
    need = Need(place=True, blocks=1)
    assert way_for(sequence(5), need, pool, running=[low], growing={low}) == Way(park=[low])
    assert way_for(sequence(5), need, pool, running=[low]) is None


@given(
    classes=st.lists(st.tuples(st.integers(-12, 12), st.integers(0, 25), st.integers(0, 4)), max_size=8),
    newcomer=st.integers(-12, 12),
    place=st.booleans(),
    lacks=st.integers(-3, 20),
    cut=st.integers(0, 8),
)
def test_a_way_is_enough_and_takes_only_from_those_that_stand_lower(
    classes: list[tuple[int, int, int]], newcomer: int, place: bool, lacks: int, cut: int
) -> None:
    pool = BlockPool(40)
    everybody = [sequence(priority, held(pool, blocks), gained=gained) for priority, gained, blocks in classes]
    running, parked = in_order(everybody[:cut]), everybody[cut:]
    new = sequence(newcomer)
    way = way_for(new, Need(place, lacks), pool, running=running, parked=parked)
    lower = [each for each in running if gives_way(each, new)]
    if way is None:
        available = sum(len(each.blocks) for each in [*lower, *parked])
        assert (place and not lower) or available < lacks
        return
    assert set(way.park) <= set(lower)
    assert len(way.park) >= place
    assert set(way.drop) <= set(way.park) | set(parked)
    assert sum(len(each.blocks) for each in way.drop) >= lacks
    assert len(set(way.drop)) == len(way.drop)
    # A victim never makes the one that took its place give way.
    new.standing = standing(new, 0.0)
    assert not any(gives_way(new, victim) for victim in way.park)
