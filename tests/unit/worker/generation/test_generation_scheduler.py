from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from shoal.batcher.policy import MAX_PRIORITY
from shoal.engines.base import Capabilities, Row
from shoal.errors import Overloaded
from shoal.types import Sampling
from shoal.worker.generation.blocks import block_keys
from shoal.worker.generation.preemption import PROMOTION, TURN
from shoal.worker.generation.scheduler import Limits, Planned, Scheduler
from shoal.worker.generation.sequence import TokenSequence

SIZE = 16


def scheduler(
    *,
    num_blocks: int = 64,
    max_sequences: int = 8,
    step_tokens: int = 128,
    block_size: int = SIZE,
    waiting: int = 8,
    max_generated: int = 512,
) -> Scheduler:
    capabilities = Capabilities(
        vocab_size=1000,
        context_length=1024,
        block_size=block_size,
        num_blocks=num_blocks,
        max_sequences=max_sequences,
        max_step_tokens=4096,
        share_prefixes=True,
        max_generated=max_generated,
    )
    return Scheduler(capabilities, Limits(step_tokens=step_tokens, max_waiting=waiting))


def sequence(length: int, *, first: int = 1, max_length: int = 1024, block_size: int = SIZE) -> TokenSequence:
    prompt = tuple(range(first, first + length))
    return TokenSequence(prompt, Sampling(), max_length, keys=block_keys(prompt, block_size, b""))


def run(planner: Scheduler, steps: int = 1, at: float = 0.0) -> list[Planned]:
    """Take steps, with token 7 as everyone's next; returns the last plan."""
    plan: list[Planned] = []
    for _ in range(steps):
        plan = planner.plan(at)
        for planned in plan:
            planner.commit(planned)
            if planned.row.wants_logits:
                planned.sequence.append(7, frozenset())
        planner.check_integrity()
    return plan


def shape(plan: Sequence[Planned]) -> list[tuple[int, int, bool]]:
    return [(planned.row.start, len(planned.row.tokens), planned.row.wants_logits) for planned in plan]


def test_a_prompt_longer_than_a_step_is_cut_at_multiples_of_32_and_sampled_at_its_end() -> None:
    planner = scheduler(step_tokens=100)
    planner.submit(sequence(201))
    assert [shape(run(planner)) for _ in range(4)] == [
        [(0, 96, False)],
        [(96, 96, False)],
        [(192, 9, True)],
        [(201, 1, True)],
    ]


def test_decoding_rows_come_first_and_a_long_prompt_takes_what_is_left() -> None:
    planner = scheduler(step_tokens=100)
    planner.submit(sequence(10))
    run(planner)
    planner.submit(sequence(500, first=300))
    assert [shape(run(planner)) for _ in range(3)] == [
        [(10, 1, True), (0, 96, False)],
        [(11, 1, True), (96, 96, False)],
        [(12, 1, True), (192, 96, False)],
    ]


def test_decoding_rows_leave_room_for_a_chunk_however_many_there_are() -> None:
    planner = scheduler(max_sequences=100, step_tokens=48, waiting=100)
    for _ in range(50):
        planner.submit(sequence(1))
    run(planner, 5)
    assert len(planner.running) == 16  # the step's 48 tokens without a chunk of 32
    planner.remove(next(iter(planner.running)))
    planner.waiting.park(sequence(64, first=200), 0.0)
    assert shape(run(planner))[-1] == (0, 32, False)


def test_short_prompts_share_a_step_in_order_of_arrival() -> None:
    planner = scheduler(step_tokens=100)
    for first in (1, 100, 200):
        planner.submit(sequence(40, first=first))
    assert shape(run(planner)) == [(0, 40, True), (0, 40, True)]  # of the third, 20 tokens are no multiple of 32
    assert shape(run(planner)) == [(40, 1, True), (40, 1, True), (0, 40, True)]


def test_no_more_run_than_the_engine_takes() -> None:
    planner = scheduler(max_sequences=2)
    for _ in range(3):
        planner.submit(sequence(4))
    run(planner)
    assert (len(planner.running), len(planner.waiting)) == (2, 1)


def test_a_known_prefix_is_not_computed_again() -> None:
    planner = scheduler()
    first = sequence(70)
    planner.submit(first)
    run(planner)
    second = sequence(70)
    planner.submit(second)
    assert shape(run(planner))[1:] == [(64, 6, True)]
    assert second.blocks[:4] == first.blocks[:4]
    assert (first.cached, second.cached) == (0, 64)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    planner = scheduler()
    planner.submit(sequence(64))
    run(planner)
    planner.submit(sequence(64))
    assert shape(run(planner))[1:] == [(32, 32, True)]


def test_a_known_prefix_is_used_up_to_a_multiple_of_32() -> None:
    planner = scheduler()
    planner.submit(sequence(50))  # publishes 3 blocks of 16
    run(planner)
    planner.submit(sequence(50))
    assert shape(run(planner))[1:] == [(32, 18, True)]


def test_a_block_is_shared_only_once_all_of_it_is_computed() -> None:
    planner = scheduler(block_size=64, step_tokens=101, max_sequences=1)
    first = sequence(300, block_size=64)
    planner.submit(first)
    run(planner)
    assert first.computed == 96
    assert planner.pool.match(first.keys) == first.blocks[:1]


def test_blocks_that_decoding_filled_are_not_shared() -> None:
    planner = scheduler()
    first = sequence(30)
    planner.submit(first)
    run(planner, 60)
    planner.remove(first)
    again = TokenSequence(
        first.prompt + tuple(first.output), Sampling(), 1024, block_keys([*first.prompt, *first.output], SIZE, b"")
    )
    planner.submit(again)
    run(planner)
    assert again.cached == 0


@pytest.mark.parametrize(
    ("max_generated", "rows"), [(512, [19]), (16, [16, 3]), (1, [1] * 19)], ids=["whole", "parts", "one by one"]
)
def test_when_blocks_run_out_the_youngest_waits_and_replays_its_output(max_generated: int, rows: list[int]) -> None:
    planner = scheduler(num_blocks=6, max_generated=max_generated)
    old, young = sequence(30), sequence(30, first=100)
    planner.submit(old)
    planner.submit(young)
    run(planner, 1 + 2)
    assert len(planner.running) == 2
    run(planner, 31)  # both need a fourth block once they have more than 48 tokens
    assert list(planner.running) == [old]
    assert list(planner.waiting) == [young]
    assert (young.computed, young.blocks) == (0, [])
    said = tuple(young.output)
    planner.remove(old)
    assert shape(run(planner)) == [(0, 30, False)]
    at = 0
    for size in rows:
        row = run(planner)[0].row
        assert row == Row(said[at : at + size], 30 + at, tuple(young.blocks), at + size == len(said), generated=True)
        at += size
    assert tuple(young.output[: len(said)]) == said
    assert len(young.output) == len(said) + 1


def test_a_replay_takes_what_decoding_leaves_of_a_step_and_prompts_what_it_leaves() -> None:
    planner = scheduler(step_tokens=64)
    decoding, reading, replaying = sequence(4), sequence(40, first=100), sequence(4, first=200)
    planner.submit(decoding)
    run(planner)
    replaying.output += [7] * 90
    planner.submit(reading)
    planner.submit(replaying)
    assert shape(run(planner)) == [(4, 1, True), (0, 4, False), (0, 40, True)]
    assert shape(run(planner)) == [(5, 1, True), (4, 62, False), (40, 1, True)]
    assert shape(run(planner)) == [(6, 1, True), (66, 28, True), (41, 1, True)]
    assert shape(run(planner)) == [(7, 1, True), (94, 1, True), (42, 1, True)]


def test_the_oldest_always_finishes() -> None:
    planner = scheduler(num_blocks=4, block_size=SIZE)
    oldest = sequence(16, max_length=64)
    planner.submit(oldest)
    for first in (100, 200, 300):
        planner.submit(sequence(16, first=first, max_length=64))
    run(planner, 48)
    assert oldest.length == 64


def test_nobody_is_let_in_who_would_soon_be_sent_back() -> None:
    planner = scheduler(num_blocks=4)
    planner.submit(sequence(30))
    planner.submit(sequence(30, first=100))
    run(planner)
    assert len(planner.running) == 1  # two blocks are left, but the first will want one of them


def test_a_request_of_many_generations_leaves_room_and_its_turn_to_others() -> None:
    planner = scheduler(max_sequences=4, waiting=100)
    many = [replace(sequence(4, max_length=30), group="many") for _ in range(50)]
    for each in many:
        planner.submit(each)
    run(planner, 3)
    assert list(planner.running) == many[:3]
    alone = sequence(4)
    planner.submit(alone)
    run(planner)
    assert list(planner.running) == [*many[:3], alone]
    others = [sequence(4) for _ in range(3)]
    for other in others:
        planner.submit(other)
    planner.remove(many[0])
    run(planner)
    assert list(planner.running) == [*many[1:3], alone, others[0]]


def test_a_higher_class_takes_the_place_of_the_one_let_in_last_and_gives_it_back_with_its_blocks() -> None:
    planner = scheduler(max_sequences=2)
    old, young, urgent = sequence(30), sequence(30, first=100), sequence(30, first=200)
    urgent.priority = 1
    planner.submit(old)
    planner.submit(young)
    run(planner, 3)
    planner.submit(urgent)
    planner.submit(sequence(30, first=300))
    assert shape(run(planner)) == [(0, 30, True), (32, 1, True)]
    assert list(planner.running) == [old, urgent]
    assert (young.computed, len(young.blocks)) == (32, 2)
    planner.remove(urgent)
    assert shape(run(planner)) == [(33, 1, True), (32, 1, True)]
    assert list(planner.running) == [old, young]
    assert planner.preempted == {"priority": 1}
    assert planner.recomputed == 0


def test_a_higher_class_is_not_kept_waiting_by_a_long_prompt_of_a_lower_one() -> None:
    planner = scheduler(step_tokens=96)
    long, urgent = sequence(900), replace(sequence(40, first=2000), priority=1)
    planner.submit(long)
    run(planner)
    planner.submit(urgent)
    assert shape(run(planner)) == [(0, 40, True), (96, 32, False)]


def test_a_higher_class_takes_blocks_of_the_parked_first() -> None:
    planner = scheduler(num_blocks=8, max_sequences=2)
    low = [sequence(30, first=first, max_length=32) for first in (1, 100)]
    high = [replace(sequence(62, first=first, max_length=64), priority=1) for first in (200, 300)]
    for each in low:
        planner.submit(each)
    run(planner)
    planner.submit(high[0])
    run(planner)
    assert [len(each.blocks) for each in low] == [2, 2]
    planner.submit(high[1])
    run(planner)
    assert list(planner.running) == high
    assert [each.blocks for each in low] == [[], []]
    assert [each.lost for each in low] == [31, 30]


def test_a_parked_sequence_whose_client_leaves_gives_its_blocks_back() -> None:
    planner = scheduler(max_sequences=1)
    low, high = sequence(30), replace(sequence(30, first=100), priority=1)
    planner.submit(low)
    run(planner)
    planner.submit(high)
    run(planner)
    assert low.blocks
    for each in (low, high):
        planner.remove(each)
    planner.check_idle()


def test_nobody_starves_behind_a_class_that_keeps_coming() -> None:
    """Two places, a step a second, and of the highest class a fourth more than there is time for."""
    planner = scheduler(max_sequences=2, waiting=10_000)
    low = replace(sequence(4, max_length=34), priority=-99)
    planner.submit(low)
    second = 0
    while low in planner.running or low in planner.waiting:
        second += 1
        assert second < 2 * MAX_PRIORITY * PROMOTION + 100
        if second % 4 == 0:
            planner.submit(replace(sequence(4, first=100, max_length=14), priority=99, arrived=float(second)))
        for planned in run(planner, at=float(second)):
            if planned.sequence.length == planned.sequence.max_length:
                planner.remove(planned.sequence)
    assert low.length == low.max_length
    assert second > 2 * MAX_PRIORITY * PROMOTION  # until then the others came first


def begun(length: int, *, first: int, priority: int = 0) -> TokenSequence:
    """It has said something, here or elsewhere."""
    made = sequence(length, first=first)
    made.output, made.priority = [7, 7], priority
    return made


def test_answers_that_were_begun_take_turns_where_there_are_fewer_places() -> None:
    planner = scheduler(max_sequences=2)
    answers = [begun(10, first=100 * number) for number in range(1, 4)]
    for each in answers:
        planner.submit(each)
    spoke = {id(each): [0.0] for each in answers}
    for tick in range(100):
        for planned in run(planner, at=tick * TURN / 4):
            spoke[id(planned.sequence)].append(tick * TURN / 4)
    assert planner.preempted == Counter(turn=planner.preempted["turn"])
    assert planner.recomputed == 0
    pauses = [after - before for times in spoke.values() for before, after in pairwise(times)]
    assert max(pauses) <= 1.5 * TURN
    said = [len(each.output) for each in answers]
    assert max(said) - min(said) <= 10


def test_a_new_request_takes_no_turn_and_gives_none_before_it_speaks() -> None:
    planner = scheduler(max_sequences=1, step_tokens=64)
    planner.submit(sequence(200))
    run(planner)
    planner.submit(begun(10, first=900))
    assert shape(run(planner, at=2 * TURN)) == [(64, 64, False)]
    run(planner, 2, at=2 * TURN)
    assert shape(run(planner, at=2 * TURN)) == [(0, 10, False)]
    planner.submit(sequence(10, first=700))
    run(planner, 4, at=2 * TURN)
    assert [planned.sequence.prompt[0] for planned in run(planner, at=9 * TURN)] == [1]


def test_turns_are_taken_within_a_class_and_cost_nobody_his_memory() -> None:
    for blocks, priority in ((64, -1), (2, 0)):
        planner = scheduler(max_sequences=1, num_blocks=blocks)
        planner.submit(begun(20, first=1))
        run(planner, 3)
        planner.submit(begun(20, first=500, priority=priority))
        assert [planned.sequence.prompt[0] for planned in run(planner, 3, at=9 * TURN)] == [1]
        assert not planner.preempted


def test_what_was_begun_elsewhere_is_computed_again_before_new_prompts() -> None:
    planner = scheduler(step_tokens=100)
    planner.submit(sequence(300))
    run(planner)
    planner.submit(begun(40, first=900))
    run(planner)  # lets it in behind the long prompt
    assert shape(run(planner))[0] == (0, 40, False)


def test_one_giant_block_a_sequence_is_a_table_of_one_and_all_of_them_are_used() -> None:
    planner = scheduler(num_blocks=3, block_size=1024)
    for _ in range(4):
        planner.submit(sequence(40))
    run(planner, 20)
    assert [len(running.blocks) for running in planner.running] == [1, 1, 1]
    assert len(planner.waiting) == 1


def test_more_than_may_wait_is_refused_with_a_time_to_try_again() -> None:
    planner = scheduler(waiting=2)
    planner.submit(sequence(4))
    planner.check_room(0)
    with pytest.raises(Overloaded, match="2 requests are waiting for this model; at most 2 may") as refused:
        planner.check_room(1)
    assert refused.value.retry_after


def test_a_step_too_small_for_a_chunk_is_a_mistake_of_the_engine() -> None:
    with pytest.raises(ValueError, match="more than 32 tokens"):
        scheduler(step_tokens=32)


def test_removing_gives_the_blocks_back_wherever_the_sequence_is() -> None:
    planner = scheduler(max_sequences=1)
    running, waiting = sequence(40), sequence(40)
    planner.submit(running)
    planner.submit(waiting)
    run(planner)
    for each in (waiting, running, running):
        planner.remove(each)
    planner.check_idle()
    assert planner.plan(0.0) == []
