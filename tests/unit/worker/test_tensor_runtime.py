from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator

import numpy as np
import pytest

from shoal.batcher import BatchLimits, Release
from shoal.clock import now
from shoal.config import BatchConfig, ModelConfig
from shoal.engines.base import TensorEngine
from shoal.errors import DeadlineExceeded, Overloaded
from shoal.messages import Infer, Inferred, ModelInfo
from shoal.model_registry import ModelSpec
from shoal.types import ModelKind, ModelName, ModelState, RequestId, Tensors, TensorSpec
from shoal.worker.loading import tensor_runtime
from shoal.worker.pipeline import TensorPipeline
from shoal.worker.runtime import TensorRuntime

NAME = ModelName("adder")


class Adder(TensorEngine):
    """Adds one, when it is let; as a stream, adds one, two and three."""

    inputs = (TensorSpec("x", "INT64", (-1,)),)
    outputs = (TensorSpec("y", "INT64", (-1,)),)

    def __init__(self, *, streams: bool = False, batchable: bool = True) -> None:
        self.streams = streams
        self.batchable = batchable
        self.may_run = threading.Event()
        self.may_run.set()
        self.runs: list[list[int]] = []
        self.ended = threading.Event()
        self.ended_in = ""
        self.delay = 0.0  # seconds

    def run(self, inputs: Tensors) -> Tensors:
        assert self.may_run.wait(10)
        time.sleep(self.delay)
        self.runs.append(inputs["x"].tolist())
        return {"y": inputs["x"] + 1}

    def stream(self, inputs: Tensors) -> Generator[Tensors]:
        self.runs.append(inputs["x"].tolist())
        try:
            for number in (1, 2, 3):
                assert self.may_run.wait(10)
                yield {"y": inputs["x"] + number}
        finally:
            self.ended_in = threading.current_thread().name
            self.ended.set()


class Seen:
    def __init__(self) -> None:
        self.batches: list[tuple[str, Release, int]] = []

    def batch_released(self, model: str, reason: Release, rows: int, requests: int, waited: float, ran: float) -> None:
        self.batches.append((model, reason, rows))


def made(engine: Adder, settings: ModelConfig | None = None) -> TensorRuntime:
    spec = ModelSpec(name=NAME, kind=ModelKind.TENSOR, settings=settings or ModelConfig())
    return tensor_runtime(spec, TensorPipeline(engine))


async def answer(
    runtime: TensorRuntime, *values: int, priority: int = 0, deadline: float | None = None
) -> list[tuple[list[int], bool]]:
    request = Infer(RequestId("r"), NAME, {"x": np.array(values)}, priority=priority)
    parts: list[tuple[list[int], bool]] = []

    async def take(part: Inferred) -> None:
        parts.append((part.outputs["y"].tolist() if part.outputs else [], part.last))

    await runtime.infer(request, take, deadline=deadline)
    return parts


async def until(runtime: TensorRuntime, *, waiting: int) -> None:
    async with asyncio.timeout(10):
        while runtime.load().waiting != waiting:
            await asyncio.sleep(0.001)


async def test_a_model_that_answers_once_says_that_this_is_the_last_part() -> None:
    runtime = made(Adder())
    assert await answer(runtime, 1, 2) == [([2, 3], True)]
    await runtime.close()


@pytest.mark.parametrize("batchable", [True, False])
async def test_a_model_that_streams_ends_with_an_empty_last_part(batchable: bool) -> None:
    runtime = made(Adder(streams=True, batchable=batchable))
    assert await answer(runtime, 1) == [([2], False), ([3], False), ([4], False), ([], True)]
    assert runtime.load().in_flight == 0
    await runtime.close()


async def test_streams_of_several_requests_share_a_run() -> None:
    engine = Adder(streams=True)
    runtime = made(engine)
    one, two = await asyncio.gather(answer(runtime, 1), answer(runtime, 10, 20))
    assert [part for part, _ in one] == [[2], [3], [4], []]
    assert [part for part, _ in two] == [[11, 21], [12, 22], [13, 23], []]
    assert engine.runs == [[1, 10, 20]]
    await runtime.close()


async def test_leaving_a_stream_ends_the_engines_generator_in_the_engines_thread() -> None:
    engine = Adder(streams=True)
    runtime = made(engine)
    parts = asyncio.Queue[Inferred](maxsize=1)
    request = Infer(RequestId("r"), NAME, {"x": np.array([1])})
    asked = asyncio.create_task(runtime.infer(request, parts.put, deadline=None))
    assert not (await parts.get()).last
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await asyncio.to_thread(engine.ended.wait, 10)
    assert engine.ended_in.startswith("engine adder")
    await runtime.close()


async def test_the_models_settings_reach_its_batcher() -> None:
    engine = Adder()
    engine.may_run.clear()
    runtime = made(engine, ModelConfig(batching=BatchConfig(max_rows=2, max_queue_rows=3)))
    running = asyncio.create_task(answer(runtime, 0))
    await asyncio.sleep(0)
    await until(runtime, waiting=0)
    waiting = [asyncio.create_task(answer(runtime, value)) for value in (1, 2, 3)]
    await until(runtime, waiting=3)
    with pytest.raises(Overloaded):
        await answer(runtime, 4)
    engine.may_run.set()
    await asyncio.gather(running, *waiting)
    assert engine.runs == [[0], [1, 2], [3]]
    await runtime.close()


async def test_priority_and_deadline_travel_with_the_request() -> None:
    engine = Adder()
    engine.may_run.clear()
    runtime = made(engine, ModelConfig(batching=BatchConfig(max_rows=1)))
    running = asyncio.create_task(answer(runtime, 0))
    await asyncio.sleep(0)
    await until(runtime, waiting=0)
    late = asyncio.create_task(answer(runtime, 9, deadline=now()))
    usual, urgent = (asyncio.create_task(answer(runtime, n, priority=n)) for n in (1, 2))
    await until(runtime, waiting=3)
    engine.may_run.set()
    await asyncio.gather(running, usual, urgent)
    assert engine.runs == [[0], [2], [1]]
    with pytest.raises(DeadlineExceeded):
        await late
    await runtime.close()


@pytest.mark.parametrize(("says", "configured", "runs"), [(False, True, 1), (True, False, 2), (True, None, 1)])
async def test_the_configuration_has_the_last_word_on_whether_rows_are_batched(
    says: bool, configured: bool | None, runs: int
) -> None:
    engine = Adder(batchable=says)
    runtime = made(engine, ModelConfig(batchable=configured))
    assert runtime.info.batchable is (runs == 1)
    await asyncio.gather(answer(runtime, 1), answer(runtime, 2))
    assert len(engine.runs) == runs
    await runtime.close()


async def test_an_observer_hears_of_every_batch() -> None:
    seen = Seen()
    info = ModelInfo(name=NAME, kind=ModelKind.TENSOR, state=ModelState.READY)
    runtime = TensorRuntime(info, TensorPipeline(Adder()), BatchLimits(max_rows=2), observer=seen)
    await asyncio.gather(*(answer(runtime, value) for value in range(3)))
    assert seen.batches == [("adder", Release.FULL, 2), ("adder", Release.IDLE, 1)]
    await runtime.close()


@pytest.mark.parametrize("batchable", [True, False])
async def test_a_run_that_does_not_end_is_reported_also_when_its_client_has_left(
    batchable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Adder()
    engine.may_run.clear()
    reasons = asyncio.Queue[str]()
    info = ModelInfo(name=NAME, kind=ModelKind.TENSOR, state=ModelState.READY, batchable=batchable)
    pipeline = TensorPipeline(engine)
    runtime = TensorRuntime(info, pipeline, BatchLimits(), run_limit=0.05, on_unhealthy=reasons.put_nowait)
    asked = asyncio.create_task(answer(runtime, 1))
    await asyncio.sleep(0.01)
    asked.cancel()
    reason = await asyncio.wait_for(reasons.get(), 10)
    assert reason == "a run of model 'adder' did not end within 0.05 seconds"
    assert caplog.messages == [reason]
    engine.may_run.set()
    await runtime.close()


async def test_requests_that_wait_for_their_turn_are_no_long_run() -> None:
    engine = Adder(batchable=False)
    info = ModelInfo(name=NAME, kind=ModelKind.TENSOR, state=ModelState.READY, batchable=False)
    reasons: list[str] = []
    runtime = TensorRuntime(info, TensorPipeline(engine), BatchLimits(), run_limit=0.5, on_unhealthy=reasons.append)
    engine.delay = 0.1
    await asyncio.gather(*(answer(runtime, value) for value in range(8)))
    assert reasons == []
    await runtime.close()


class Pair(Adder):
    """Two runs wait for each other."""

    runs_at_once = 2

    def __init__(self) -> None:
        super().__init__()
        self._both = threading.Barrier(2)

    def run(self, inputs: Tensors) -> Tensors:
        self._both.wait(10)
        return super().run(inputs)


async def test_an_engine_that_can_makes_two_runs_at_once() -> None:
    runtime = made(Pair())

    async def run(number: int) -> list[int]:
        (part,) = [part async for part in runtime._execute({"x": np.array([number])})]
        added: list[int] = part["y"].tolist()
        return added

    assert await asyncio.gather(*map(run, range(4))) == [[1], [2], [3], [4]]
    await runtime.close()
