from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.api.limits import ApiLimits
from shoal.batcher import Batcher, BatchLimits, Padding, Release
from shoal.batcher.entry import MAX_PARTS
from shoal.clock import ManualClockLoop, now
from shoal.config import BatchConfig
from shoal.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    PayloadTooLarge,
    ShoalError,
    WorkerLost,
)
from shoal.types import Tensors, TensorSpec

LIMITS = BatchLimits(max_rows=4, max_wait=0.5, max_queue_rows=12)
RUN_TIME = 2.0  # seconds


class Doubler:
    """Takes its time, doubles its rows, and refuses a 13."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, list[int]]] = []  # when each run began, and its rows

    async def __call__(self, inputs: Tensors) -> AsyncGenerator[Tensors]:
        rows = inputs["x"][:, 0].tolist()
        self.batches.append((now(), rows))
        await asyncio.sleep(RUN_TIME)
        if 13 in rows:
            raise InvalidRequest("no 13 here")
        yield {"y": inputs["x"] * 2}


@dataclass
class Seen:
    """Observes batches: why, rows, requests, waited, ran."""

    batches: list[tuple[Release, int, int, float, float]] = field(default_factory=list)

    def batch_released(self, model: str, reason: Release, rows: int, requests: int, waited: float, ran: float) -> None:
        assert model == "doubler"
        self.batches.append((reason, rows, requests, waited, ran))


def rows(*values: int) -> Tensors:
    return {"x": np.array(values)[:, None]}


def simulate(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(scene)


async def values(batcher: Batcher, *request: int) -> list[int]:
    outputs = await batcher.submit(rows(*request))
    doubled: list[int] = outputs["y"][:, 0].tolist()
    return doubled


def test_the_largest_request_for_embeddings_fits_the_queue_by_default() -> None:
    async def scene() -> None:
        count = ApiLimits().inputs
        for limits in (BatchLimits(), BatchLimits(max_queue_rows=BatchConfig().max_queue_rows)):
            batcher = Batcher(Doubler(), limits)
            both = await asyncio.gather(*(values(batcher, *range(100, 100 + count)) for _ in range(2)))
            assert both == [[2 * row for row in range(100, 100 + count)]] * 2

    simulate(scene())


def test_requests_of_one_moment_share_a_run_and_each_gets_its_own_rows() -> None:
    async def scene() -> None:
        model, seen = Doubler(), Seen()
        batcher = Batcher(model, LIMITS, model="doubler", observer=seen)
        answers = tuple(await asyncio.gather(values(batcher, 1), values(batcher, 2, 3), values(batcher, 4)))
        assert answers == ([2], [4, 6], [8])
        assert model.batches == [(0.0, [1, 2, 3, 4])]
        assert seen.batches == [(Release.FULL, 4, 3, 0.0, RUN_TIME)]

    simulate(scene())


def test_a_lone_client_never_waits_for_company() -> None:
    async def scene() -> None:
        seen = Seen()
        batcher = Batcher(Doubler(), LIMITS, model="doubler", observer=seen)
        for _ in range(5):
            await values(batcher, 1)
            await asyncio.sleep(0.01)
        assert now() == pytest.approx(5 * (RUN_TIME + 0.01))
        assert {batch[0] for batch in seen.batches} == {Release.IDLE}

    simulate(scene())


def test_clients_that_take_turns_are_brought_together() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        await asyncio.gather(client(batcher, 0.01, 6), client(batcher, 0.02, 6))
        assert [len(rows) for _, rows in model.batches] == [1, 1, 2, 2, 2, 2, 2]  # the first two are to learn from

    simulate(scene())


async def client(batcher: Batcher, pause: float, times: int) -> None:
    """Asks again ``pause`` seconds after each answer."""
    for _ in range(times):
        await asyncio.sleep(pause)
        await values(batcher, 0)


def test_who_waits_for_company_that_stays_away_waits_a_moment_only() -> None:
    async def scene() -> None:
        seen = Seen()
        batcher = Batcher(Doubler(), LIMITS, model="doubler", observer=seen)
        # Both run alone once, then eight times together, and then the second one stays away.
        await asyncio.gather(client(batcher, 0.02, 10), client(batcher, 0.04, 9))
        assert [rows for _, rows, *_ in seen.batches] == [1, 1, *[2] * 8, 1]
        assert {reason for reason, *_ in seen.batches} == {Release.IDLE}
        *_, (_, _, _, before, _), (_, _, _, waited, _) = seen.batches
        assert before == pytest.approx(0.02)  # until the second had come
        assert 0.02 < waited < LIMITS.max_wait

    simulate(scene())


def test_the_next_batch_gathers_while_one_runs() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)

        async def later(delay: float, value: int) -> list[int]:
            await asyncio.sleep(delay)
            return await values(batcher, value)

        await asyncio.gather(values(batcher, 1, 2, 3, 4), later(0.1, 5), later(1.0, 6), later(1.9, 7))
        assert model.batches == [(0.0, [1, 2, 3, 4]), (RUN_TIME, [5, 6, 7])]

    simulate(scene())


def test_other_shapes_run_apart() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        wide = batcher.submit({"x": np.array([[7, 7]])})
        _, answer = await asyncio.gather(values(batcher, 1), wide)
        assert answer["y"].tolist() == [[14, 14]]
        assert [batch for _, batch in model.batches] == [[1], [7]]

    simulate(scene())


def test_a_long_request_is_cut_into_runs_of_allowed_size() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        assert await values(batcher, *range(10)) == [2 * value for value in range(10)]
        assert [len(batch) for _, batch in model.batches] == [4, 4, 2]

    simulate(scene())


def test_one_bad_item_fails_alone() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        good, bad, other = await asyncio.gather(
            values(batcher, 1, 2), values(batcher, 13), values(batcher, 3), return_exceptions=True
        )
        assert (good, other) == ([2, 4], [6])
        assert isinstance(bad, InvalidRequest)
        assert [batch for _, batch in model.batches] == [[1, 2, 13, 3], [1, 2, 13], [1, 2], [13], [3]]

    simulate(scene())


def test_a_model_that_loses_rows_fails_and_nobody_gets_the_rows_of_another() -> None:
    async def scene() -> None:
        async def forgetful(inputs: Tensors) -> AsyncGenerator[Tensors]:
            yield {"y": inputs["x"][:1]}

        batcher = Batcher(forgetful, LIMITS)
        one, two = await asyncio.gather(batcher.submit(rows(1)), batcher.submit(rows(2, 3)), return_exceptions=True)
        assert isinstance(one, dict)
        assert one["y"].tolist() == [[1]]
        assert isinstance(two, EngineFailed)

    simulate(scene())


def test_a_request_in_the_very_moment_the_queue_runs_dry_is_not_forgotten() -> None:
    async def scene() -> None:
        batcher = Batcher(Doubler(), LIMITS)
        for value in range(3):
            answer = await batcher.submit(rows(value))
            assert answer["y"].tolist() == [[2 * value]]

    simulate(scene())


def test_a_run_that_is_cancelled_from_below_is_answered_and_the_queue_lives_on() -> None:
    async def scene() -> None:
        calls = 0

        async def cancelled_once(inputs: Tensors) -> AsyncGenerator[Tensors]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise asyncio.CancelledError
            yield {"y": inputs["x"]}

        batcher = Batcher(cancelled_once, LIMITS)
        with pytest.raises(EngineFailed, match="cancelled"):
            await batcher.submit(rows(1))
        assert (await batcher.submit(rows(2)))["y"].tolist() == [[2]]

    simulate(scene())


def test_a_full_queue_says_no_and_takes_again_when_there_is_room() -> None:
    async def scene() -> None:
        batcher = Batcher(Doubler(), LIMITS)
        running = asyncio.create_task(values(batcher, 0, 0, 0, 0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # its batch has left the queue
        waiting = [asyncio.create_task(values(batcher, *range(4))) for _ in range(3)]
        await asyncio.sleep(0)
        assert batcher.queued_rows == LIMITS.max_queue_rows
        with pytest.raises(Overloaded, match="12 rows are waiting"):
            await batcher.submit(rows(1))
        await asyncio.gather(running, *waiting)
        assert await values(batcher, 1) == [2]

    simulate(scene())


def test_a_request_that_never_fits_is_told_so() -> None:
    async def scene() -> None:
        with pytest.raises(PayloadTooLarge, match="13 rows; at most 12"):
            await Batcher(Doubler(), LIMITS).submit(rows(*range(13)))

    simulate(scene())


def test_a_cancelled_request_gives_its_place_back() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        leaves = asyncio.create_task(values(batcher, 1, 2, 3))
        stays = asyncio.create_task(values(batcher, 4))
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.wait([leaves])
        assert batcher.queued_rows <= 1
        assert await stays == [8]
        assert leaves.cancelled()

    simulate(scene())


def test_a_request_cancelled_while_it_gathers_is_not_computed() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        await asyncio.gather(client(batcher, 0.02, 9), client(batcher, 0.04, 9))
        model.batches.clear()
        await asyncio.sleep(0.02)
        leaves = asyncio.create_task(values(batcher, 1))
        await asyncio.sleep(0.01)  # it waits for the other one
        leaves.cancel()
        assert await values(batcher, 2) == [4]
        assert [batch for _, batch in model.batches] == [[2]]

    simulate(scene())


def test_a_request_cancelled_in_a_running_batch_hurts_no_batch_mate() -> None:
    async def scene() -> None:
        batcher = Batcher(Doubler(), LIMITS)
        leaves = asyncio.create_task(values(batcher, 1, 2))
        stays = asyncio.create_task(values(batcher, 3, 4))
        await asyncio.sleep(RUN_TIME / 2)
        leaves.cancel()
        assert await stays == [6, 8]
        assert await values(batcher, 5) == [10]

    simulate(scene())


def test_a_cancelled_bad_item_is_not_tried_alone() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        leaves = asyncio.create_task(values(batcher, 13, 13))
        stays = asyncio.create_task(values(batcher, 3, 4))
        await asyncio.sleep(RUN_TIME / 2)
        leaves.cancel()
        assert await stays == [6, 8]
        assert [batch for _, batch in model.batches] == [[13, 13, 3, 4], [3, 4]]

    simulate(scene())


def test_one_failed_part_of_a_long_request_takes_the_rest_out_of_the_queue() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        with pytest.raises(InvalidRequest, match="no 13"):
            await batcher.submit(rows(13, 1, 2, 3, 4, 5, 6, 7, 8, 9))
        assert batcher.queued_rows == 0
        await asyncio.sleep(10 * RUN_TIME)
        assert len(model.batches) <= 2  # the second may have begun in the same moment

    simulate(scene())


def test_closing_answers_everybody_and_takes_nothing_more() -> None:
    async def scene() -> None:
        batcher = Batcher(Doubler(), LIMITS)
        running = asyncio.create_task(values(batcher, 1, 2, 3, 4))
        await asyncio.sleep(RUN_TIME / 2)
        waiting = asyncio.create_task(values(batcher, 5))
        await asyncio.sleep(0)
        await batcher.close()
        for answer in await asyncio.gather(running, waiting, return_exceptions=True):
            assert isinstance(answer, ModelUnavailable)
        with pytest.raises(ModelUnavailable):
            await batcher.submit(rows(1))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    simulate(scene())


def test_nothing_is_left_behind_when_all_is_answered() -> None:
    async def scene() -> None:
        batcher = Batcher(Doubler(), LIMITS)
        await asyncio.gather(*(values(batcher, value) for value in range(9)))
        await asyncio.sleep(0)
        assert batcher.queued_rows == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    simulate(scene())


# -- priorities, deadlines, room


def test_the_urgent_go_first_and_the_others_in_the_order_of_their_arrival() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        asked = [asyncio.create_task(values(batcher, 0, 0, 0, 0))]
        await asyncio.sleep(0.01)
        for value, priority in [(1, 0), (2, 0), (3, 5), (4, 0), (5, 5)]:
            asked.append(asyncio.create_task(values_of(batcher, value, priority)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*asked)
        assert [batch for _, batch in model.batches[1:]] == [[3, 5, 1, 2], [4]]

    simulate(scene())


async def values_of(batcher: Batcher, value: int, priority: int) -> list[int]:
    outputs = await batcher.submit(rows(value), priority=priority)
    doubled: list[int] = outputs["y"][:, 0].tolist()
    return doubled


def test_what_is_late_before_its_run_is_not_computed() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        running = asyncio.create_task(values(batcher, 1))
        await asyncio.sleep(0.01)
        late = asyncio.create_task(batcher.submit(rows(2), deadline=RUN_TIME / 2))
        in_time = asyncio.create_task(batcher.submit(rows(3), deadline=RUN_TIME * 2))
        with pytest.raises(DeadlineExceeded):
            await late
        assert (await in_time)["y"].tolist() == [[6]]
        await running
        assert [batch for _, batch in model.batches] == [[1], [3]]

    simulate(scene())


def test_what_would_be_late_after_its_run_is_not_computed() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        for _ in range(30):  # by then the cost of a run is known
            await values(batcher, 1)
        model.batches.clear()
        running = asyncio.create_task(values(batcher, 1))
        await asyncio.sleep(RUN_TIME / 2)
        late = asyncio.create_task(batcher.submit(rows(2), deadline=now() + RUN_TIME))
        in_time = asyncio.create_task(batcher.submit(rows(3), deadline=now() + 2 * RUN_TIME))
        with pytest.raises(DeadlineExceeded, match="could not be answered in time"):
            await late
        assert (await in_time)["y"].tolist() == [[6]]
        await running
        assert [batch for _, batch in model.batches] == [[1], [3]]

    simulate(scene())


def test_who_is_refused_is_told_when_the_queue_will_have_run() -> None:
    async def scene() -> None:
        batcher = Batcher(Doubler(), LIMITS)
        for _ in range(3):  # so that the model's speed is known
            await values(batcher, 1, 2, 3, 4)
        asked = [asyncio.create_task(values(batcher, *range(4))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await batcher.submit(rows(1))
        assert refused.value.retry_after == pytest.approx(3 * RUN_TIME)
        await asyncio.gather(*asked)

    simulate(scene())


# -- what a failure costs


@pytest.mark.parametrize("bad", range(8))
def test_one_bad_item_of_eight_costs_two_runs_for_each_halving_and_no_more(bad: int) -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, BatchLimits(max_rows=8))
        items = [13 if number == bad else number for number in range(8)]
        answers = await asyncio.gather(*(values(batcher, item) for item in items), return_exceptions=True)
        for item, answer in zip(items, answers, strict=True):
            assert isinstance(answer, InvalidRequest) if item == 13 else answer == [2 * item]
        assert len(model.batches) == 1 + 2 * 3

    simulate(scene())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([1, 13]), min_size=1, max_size=16))
def test_however_many_are_bad_the_good_ones_are_answered(items: list[int]) -> None:
    async def scene() -> None:
        batcher = Batcher(Doubler(), BatchLimits(max_rows=16))
        answers = await asyncio.gather(*(values(batcher, item) for item in items), return_exceptions=True)
        for item, answer in zip(items, answers, strict=True):
            assert isinstance(answer, InvalidRequest) if item == 13 else answer == [2]

    simulate(scene())


@pytest.mark.parametrize(
    ("error", "takes", "runs"),
    [
        (WorkerLost("its process is gone"), 0.0, 1),
        (ModelUnavailable("it is loading"), 0.0, 1),
        (EngineFailed("no memory"), 1.0, 9),
        (EngineFailed("no memory"), 0.0, 63),
    ],
    ids=["gone", "unavailable", "slow to fail", "quick to fail"],
)
def test_a_dead_engine_is_given_up(error: Exception, takes: float, runs: int) -> None:
    async def scene() -> None:
        calls = 0

        async def dead(inputs: Tensors) -> AsyncGenerator[Tensors]:
            nonlocal calls
            calls += 1
            await asyncio.sleep(takes)
            if calls:
                raise error
            yield inputs

        batcher = Batcher(dead, BatchLimits())
        answers = await asyncio.gather(*(batcher.submit(rows(1)) for _ in range(32)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {type(error)}
        assert len({id(answer) for answer in answers}) == 32
        assert calls == runs

    simulate(scene())


@settings(deadline=None, max_examples=50)
@given(st.sets(st.integers(0, 31)))
@example(set(range(3)))
@example(set(range(31)))
def test_requests_that_break_a_run_fail_alone_however_many_there_are(bad: set[int]) -> None:
    async def scene() -> None:
        async def breaks(inputs: Tensors) -> AsyncGenerator[Tensors]:
            if bad.intersection(inputs["x"].ravel().tolist()):
                raise EngineFailed("it broke")
            yield {"y": inputs["x"]}

        batcher = Batcher(breaks, BatchLimits(max_rows=32))
        answers = await asyncio.gather(*(values(batcher, item) for item in range(32)), return_exceptions=True)
        for item, answer in enumerate(answers):
            assert isinstance(answer, EngineFailed) if item in bad else answer == [item]

    simulate(scene())


def test_a_number_that_is_not_one_is_an_answer_and_no_failure() -> None:
    async def scene() -> None:
        async def undefined(inputs: Tensors) -> AsyncGenerator[Tensors]:
            yield {"y": inputs["x"] * np.nan}

        answers = await asyncio.gather(*(Batcher(undefined, LIMITS).submit(rows(1)) for _ in range(2)))
        assert all(np.isnan(answer["y"]).all() for answer in answers)

    simulate(scene())


# -- streams


class Counter:
    """Counts to three, a part a second, and doubles what it gets."""

    def __init__(self, *, fails_before: int | None = None) -> None:
        self.runs: list[int] = []
        self.parts = 0
        self._fails_before = fails_before

    async def __call__(self, inputs: Tensors) -> AsyncGenerator[Tensors]:
        self.runs.append(len(inputs["x"]))
        for number in range(3):
            await asyncio.sleep(1)
            if number == self._fails_before:
                raise EngineFailed("broken")
            self.parts += 1
            yield {"y": inputs["x"] * 2 + 100 * number}


async def parts_of(batcher: Batcher, *request: int) -> list[tuple[float, list[int]]]:
    return [(now(), part["y"][:, 0].tolist()) async for part in batcher.stream(rows(*request))]


def test_the_parts_of_a_stream_reach_each_request_as_they_are_made() -> None:
    async def scene() -> None:
        model = Counter()
        batcher = Batcher(model, LIMITS)
        one, two = await asyncio.gather(parts_of(batcher, 1), parts_of(batcher, 2, 3))
        assert one == [(1, [2]), (2, [102]), (3, [202])]
        assert two == [(1, [4, 6]), (2, [104, 106]), (3, [204, 206])]
        assert model.runs == [3]

    simulate(scene())


def test_a_client_that_leaves_a_stream_hurts_nobody_and_the_last_one_stops_the_run() -> None:
    async def scene() -> None:
        model = Counter()
        batcher = Batcher(model, LIMITS)
        leaves = asyncio.create_task(parts_of(batcher, 1))
        stays = asyncio.create_task(parts_of(batcher, 2))
        await asyncio.sleep(1.5)
        leaves.cancel()
        assert len(await stays) == 3
        alone = asyncio.create_task(parts_of(batcher, 3))
        await asyncio.sleep(1.5)
        alone.cancel()
        await asyncio.sleep(5)
        assert model.parts == 3 + 2  # one was under way

    simulate(scene())


def test_streams_that_were_left_do_not_make_the_model_look_fast() -> None:
    async def scene() -> None:
        batcher = Batcher(Counter(), LIMITS)
        for _ in range(3):
            await parts_of(batcher, 1, 2, 3, 4)
        for _ in range(5):
            leaves = asyncio.create_task(parts_of(batcher, 1, 2, 3, 4))
            await asyncio.sleep(1.5)
            leaves.cancel()
            await asyncio.sleep(1.5)
        asked = [asyncio.create_task(parts_of(batcher, *range(4))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await parts_of(batcher, 1)
        assert refused.value.retry_after == pytest.approx(3 * 3)
        await asyncio.gather(*asked)

    simulate(scene())


async def taken(batcher: Batcher, *request: int, pause: float = 0.0) -> tuple[int, str]:
    """How many parts came, and the error behind them; ``pause`` seconds go by after each."""
    count = 0
    try:
        async for _ in batcher.stream(rows(*request)):
            count += 1
            await asyncio.sleep(pause)
    except ShoalError as error:
        return count, error.message
    return count, ""


def test_a_stream_that_breaks_ends_with_the_error_behind_what_came_and_is_not_run_again() -> None:
    async def scene() -> None:
        model = Counter(fails_before=1)
        batcher = Batcher(model, LIMITS)
        one, two = await asyncio.gather(taken(batcher, 1), taken(batcher, 2))
        assert one == two == (1, "broken")
        assert model.runs == [2]

    simulate(scene())


def test_who_does_not_read_his_stream_loses_it_and_the_others_get_theirs() -> None:
    async def scene() -> None:
        async def long(inputs: Tensors) -> AsyncGenerator[Tensors]:
            for _ in range(MAX_PARTS + 10):
                await asyncio.sleep(0.001)
                yield {"y": inputs["x"]}

        batcher = Batcher(long, LIMITS)
        lost, kept = await asyncio.gather(taken(batcher, 1, pause=60), taken(batcher, 2))
        assert lost[0] == MAX_PARTS + 1
        assert "was not taken" in lost[1]
        assert kept == (MAX_PARTS + 10, "")

    simulate(scene())


def test_a_run_that_never_ends_hangs_nobody_who_has_a_deadline() -> None:
    async def scene() -> None:
        async def hung(inputs: Tensors) -> AsyncGenerator[Tensors]:
            await asyncio.Event().wait()
            yield inputs

        batcher = Batcher(hung, LIMITS)

        async def ask() -> None:
            async with asyncio.timeout(1):
                await batcher.submit(rows(1))

        ends = await asyncio.gather(*(ask() for _ in range(12)), return_exceptions=True)
        assert {type(end) for end in ends} == {TimeoutError}
        assert batcher.queued == 0
        await batcher.close()

    simulate(scene())


def test_a_streamed_request_has_to_fit_a_run() -> None:
    async def scene() -> None:
        with pytest.raises(PayloadTooLarge, match="5 rows; a model that streams takes at most 4"):
            await parts_of(Batcher(Counter(), LIMITS), *range(5))

    simulate(scene())


def test_a_stream_that_is_asked_for_as_a_whole_is_refused() -> None:
    async def scene() -> None:
        with pytest.raises(EngineFailed, match="answered in parts"):
            await Batcher(Counter(), LIMITS).submit(rows(1))

    simulate(scene())


# -- two runs at once


class Shared:
    """An engine whose runs share its time; a row costs a second of it."""

    def __init__(self, fixed: float = 0.0) -> None:
        self._fixed = fixed
        self._running: dict[object, float] = {}  # what each has yet to do
        self.sizes: list[int] = []
        self.most = 0  # runs at a time

    async def __call__(self, inputs: Tensors) -> AsyncGenerator[Tensors]:
        run, count = object(), len(inputs["x"])
        self.sizes.append(count)
        self._running[run] = self._fixed + count
        self.most = max(self.most, len(self._running))
        try:
            while self._running[run] > 1e-6:
                await asyncio.sleep(0.25)
                self._running[run] -= 0.25 / len(self._running)
            yield {"y": inputs["x"] * 2}
        finally:
            del self._running[run]

    @property
    def runs(self) -> int:
        return len(self._running)


async def learned(model: Shared) -> Batcher:
    """A batcher that knows what a run costs."""
    batcher = Batcher(model, BatchLimits(12, 0.5, 64), runs_at_once=2)
    for _ in range(10):
        await values(batcher, 1)
        await values(batcher, 2, 3, 4, 5, 6, 7, 8)
    model.sizes.clear()
    model.most = 0
    return batcher


def test_where_rows_cost_most_two_runs_share_the_engine() -> None:
    async def scene() -> None:
        model = Shared()
        batcher = await learned(model)
        answers = await asyncio.gather(*(values(batcher, number) for number in range(20)))
        assert answers == [[2 * number] for number in range(20)]
        assert model.most == 2
        assert max(model.sizes) == 4

    simulate(scene())


def test_where_a_run_costs_most_by_itself_there_is_one_at_a_time() -> None:
    async def scene() -> None:
        model = Shared(fixed=5.0)
        batcher = await learned(model)
        await asyncio.gather(*(values(batcher, number) for number in range(20)))
        assert model.most == 1
        assert model.sizes[0] == 12

    simulate(scene())


def test_a_model_that_makes_one_run_at_a_time_is_never_asked_for_two() -> None:
    async def scene() -> None:
        model = Shared()
        batcher = Batcher(model, BatchLimits(8, 0.5, 64))
        for _ in range(5):
            await asyncio.gather(*(values(batcher, number) for number in range(20)))
        assert model.most == 1

    simulate(scene())


def test_a_long_request_is_shared_by_two_runs_and_comes_back_in_order() -> None:
    async def scene() -> None:
        model = Shared()
        batcher = await learned(model)
        assert await values(batcher, *range(12)) == [2 * number for number in range(12)]
        assert (model.sizes, model.most) == ([6, 6], 2)

    simulate(scene())


def test_who_is_answered_by_one_run_has_the_next_while_the_other_goes_on() -> None:
    """With one run at a time the model would have nothing to do while answers and requests are on their way."""

    async def scene() -> None:
        model = Shared()
        batcher = await learned(model)
        idle = 0.0

        async def client() -> None:
            for _ in range(20):
                await values(batcher, 1)
                await asyncio.sleep(0.5)  # on the way

        async def look() -> None:
            nonlocal idle
            while True:
                await asyncio.sleep(0.1)
                idle += 0.1 * (not model.runs)

        watch = asyncio.create_task(look())
        await asyncio.sleep(0.05)
        began = now()
        await asyncio.gather(*(client() for _ in range(8)))
        took = now() - began
        watch.cancel()
        assert idle / took < 0.02

    simulate(scene())


def test_a_run_that_fails_leaves_the_one_beside_it_alone() -> None:
    async def scene() -> None:
        shared = Shared()

        async def model(inputs: Tensors) -> AsyncGenerator[Tensors]:
            async for outputs in shared(inputs):
                if 13 in inputs["x"]:
                    raise InvalidRequest("no 13 here")
                yield outputs

        batcher = await learned(shared)
        batcher._execute = model
        answers = await asyncio.gather(*(values(batcher, number) for number in range(10, 18)), return_exceptions=True)
        assert isinstance(answers[3], InvalidRequest)
        assert [answer for answer in answers if not isinstance(answer, InvalidRequest)] == [
            [2 * number] for number in range(10, 18) if number != 13
        ]

    simulate(scene())


def test_closing_answers_everybody_in_both_runs() -> None:
    async def scene() -> None:
        model = Shared()
        batcher = await learned(model)
        asked = [asyncio.create_task(values(batcher, number)) for number in range(12)]
        await asyncio.sleep(3.0)
        assert model.runs == 2
        await batcher.close()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {ModelUnavailable}
        assert model.runs == 0

    simulate(scene())


# -- shapes, and the latency target


def test_requests_of_other_lengths_share_a_padded_run_and_get_their_own_length_back() -> None:
    async def scene() -> None:
        spec = TensorSpec("x", "FP32", (-1, -1))
        seen = Seen()
        shapes: list[tuple[int, ...]] = []

        async def identity(inputs: Tensors) -> AsyncGenerator[Tensors]:
            shapes.append(inputs["x"].shape)
            yield inputs

        padding = Padding((4,), inputs=(spec,), outputs=(spec,))
        batcher = Batcher(identity, LIMITS, padding=padding, model="doubler", observer=seen)
        arrays = [np.full((1, length), length, np.float32) for length in (1, 3, 4)]
        answers = await asyncio.gather(*(batcher.submit({"x": array}) for array in arrays))
        for array, answer in zip(arrays, answers, strict=True):
            np.testing.assert_array_equal(answer["x"], array)
        assert shapes == [(3, 4)]

    simulate(scene())


@settings(deadline=None, max_examples=20)
@given(st.floats(0.001, 0.02), st.floats(0.0005, 0.005), st.floats(0.05, 0.3), st.data())
def test_with_a_target_clients_that_two_runs_can_hold_are_answered_within_it(
    fixed: float, per_row: float, target: float, data: st.DataObject
) -> None:
    holds = int((target / 2 / 1.03 - fixed) / per_row)  # the fit never trusts itself to better than that
    if holds < 1:
        return
    clients = data.draw(st.integers(1, 2 * min(holds, 64)))
    latencies: list[tuple[float, float]] = []

    async def model(inputs: Tensors) -> AsyncGenerator[Tensors]:
        await asyncio.sleep(fixed + per_row * len(inputs["x"]))
        yield inputs

    async def scene() -> None:
        batcher = Batcher(model, BatchLimits(64, 0.001, target_latency=target))

        async def ask() -> None:
            while now() < 60 * target:
                began = now()
                await batcher.submit(rows(1))
                latencies.append((began, now() - began))

        await asyncio.gather(*(ask() for _ in range(clients)))

    simulate(scene())
    settled = [latency for began, latency in latencies if began > 40 * target]
    assert max(settled) <= target * 1.05
