from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from shoal.batcher import Batcher, BatchLimits, Release
from shoal.clock import ManualClockLoop, now
from shoal.errors import EngineFailed, InvalidRequest, ModelUnavailable, Overloaded, PayloadTooLarge
from shoal.types import Tensors

LIMITS = BatchLimits(max_rows=4, max_wait=0.5, max_queue_rows=12)
RUN_TIME = 2.0  # seconds


class Doubler:
    """Takes its time, doubles its rows, and refuses a 13."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, list[int]]] = []  # when each run began, and its rows

    async def __call__(self, inputs: Tensors) -> Tensors:
        rows = inputs["x"][:, 0].tolist()
        self.batches.append((now(), rows))
        await asyncio.sleep(RUN_TIME)
        if 13 in rows:
            raise InvalidRequest("no 13 here")
        return {"y": inputs["x"] * 2}


def rows(*values: int) -> Tensors:
    return {"x": np.array(values)[:, None]}


def simulate(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        runner.run(scene)


async def values(batcher: Batcher, *request: int) -> list[int]:
    outputs = await batcher.submit(rows(*request))
    doubled: list[int] = outputs["y"][:, 0].tolist()
    return doubled


def test_requests_of_one_moment_share_a_run_and_each_gets_its_own_rows() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        answers = tuple(await asyncio.gather(values(batcher, 1), values(batcher, 2, 3), values(batcher, 4)))
        assert answers == ([2], [4, 6], [8])
        assert model.batches == [(0.0, [1, 2, 3, 4])]
        assert batcher.released == {Release.FULL: 1}

    simulate(scene())


def test_a_lone_request_waits_no_longer_than_the_limit() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = Batcher(model, LIMITS)
        assert await values(batcher, 1) == [2]
        assert model.batches == [(LIMITS.max_wait, [1])]
        assert batcher.released == {Release.TIMEOUT: 1}

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
        assert [batch for _, batch in model.batches] == [[1, 2, 13, 3], [1, 2], [13], [3]]

    simulate(scene())


def test_a_model_that_loses_rows_fails_and_nobody_gets_the_rows_of_another() -> None:
    async def scene() -> None:
        async def forgetful(inputs: Tensors) -> Tensors:
            return {"y": inputs["x"][:1]}

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

        async def cancelled_once(inputs: Tensors) -> Tensors:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise asyncio.CancelledError
            return {"y": inputs["x"]}

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
        leaves = asyncio.create_task(values(batcher, 1))
        stays = asyncio.create_task(values(batcher, 2))
        await asyncio.sleep(LIMITS.max_wait / 2)
        leaves.cancel()
        assert await stays == [4]
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
