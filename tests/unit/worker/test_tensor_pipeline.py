from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import numpy as np
import pytest

from shoal.batcher import BatchLimits
from shoal.engines.base import TensorEngine
from shoal.engines.echo import EchoEngine
from shoal.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from shoal.messages import RunSteps, StepInfo
from shoal.preproc import Chain
from shoal.types import Array, Tensors, TensorSpec
from shoal.worker.pipeline import StepPipeline, TensorPipeline, check_complete


class Increment(TensorEngine):
    inputs = (TensorSpec("number", "INT64", (-1,)),)
    outputs = (TensorSpec("next", "INT64", (-1,)),)

    def __init__(self) -> None:
        self.seen: list[set[str]] = []
        self.closed = False

    def run(self, inputs: Tensors) -> Tensors:
        self.seen.append(set(inputs))
        return {"next": inputs["number"] + 1}

    def close(self) -> None:
        self.closed = True


class Parse:
    inputs = (TensorSpec("text", "BYTES", (-1,)),)
    outputs = (TensorSpec("number", "INT64", (-1,)), TensorSpec("length", "INT64", (-1,)))

    def __call__(self, tensors: Tensors) -> Tensors:
        return {
            "number": np.array([int(row) for row in tensors["text"]]),
            "length": np.array([len(row) for row in tensors["text"]]),
        }


class Join:
    """Needs what the engine made and what the step before it did."""

    inputs = (TensorSpec("next", "INT64", (-1,)), TensorSpec("length", "INT64", (-1,)))
    outputs = (TensorSpec("joined", "INT64", (-1, 2)),)

    def __call__(self, tensors: Tensors) -> Tensors:
        assert tensors.keys() == {"next", "length"}
        return {"joined": np.stack([tensors["next"], tensors["length"]], axis=1)}


LIMITS = BatchLimits(max_rows=3, max_queue_rows=8)
PARSE, JOIN = Chain([("parse", Parse())]), Chain([("join", Join())])


class MemorySteps:
    """A pool of step processes in memory; remembers what it was sent."""

    def __init__(self, preproc: Chain = Chain(), postproc: Chain = Chain()) -> None:  # noqa: B008
        self.preproc, self.postproc = preproc, postproc
        self.seen: list[RunSteps] = []
        self.closed = False

    async def run(self, message: RunSteps) -> Tensors:
        self.seen.append(message)
        if message.half == "postproc":
            return self.postproc.run(message.tensors)[1]
        made, _ = self.preproc.run(message.tensors)
        return made if message.wanted is None else {name: made[name] for name in message.wanted if name in made}

    async def close(self) -> None:
        self.closed = True


def around(engine: TensorEngine, steps: MemorySteps) -> StepPipeline:
    return StepPipeline(engine, steps=steps, preproc=steps.preproc.info, postproc=steps.postproc.info)


def text(*rows: bytes) -> Tensors:
    return {"text": np.array(rows, dtype=object)}


def test_what_a_step_makes_reaches_every_step_after_it_and_only_the_last_outputs_leave() -> None:
    engine = Increment()
    pipeline = TensorPipeline(engine, preproc=PARSE, postproc=JOIN)
    assert pipeline.inputs == Parse.inputs
    assert pipeline.outputs == Join.outputs
    made = pipeline.run(text(b"7", b"10"))
    assert {name: array.tolist() for name, array in made.items()} == {"joined": [[8, 1], [11, 2]]}
    assert engine.seen == [{"number"}]


def test_without_steps_it_is_the_engine() -> None:
    pipeline = TensorPipeline(Increment())
    assert (pipeline.inputs, pipeline.outputs) == (Increment.inputs, Increment.outputs)
    assert pipeline.run({"number": np.array([1])})["next"].tolist() == [2]


def test_inputs_are_checked_before_the_first_step() -> None:
    pipeline = TensorPipeline(Increment(), preproc=PARSE)
    with pytest.raises(InvalidRequest, match="'text' must be BYTES"):
        pipeline.run({"text": np.zeros(2)})
    with pytest.raises(InvalidRequest, match="no input 'number'"):
        pipeline.run(text(b"1") | {"number": np.array([1])})


def test_an_engine_that_takes_anything_gets_everything() -> None:
    pipeline = TensorPipeline(EchoEngine())
    assert not pipeline.batchable
    assert pipeline.run({"input": np.array(5)})["output"] == 5


def info(name: str, takes: str, makes: str) -> StepInfo:
    """``takes`` and ``makes``: names with spaces between them."""
    inputs, outputs = (tuple(TensorSpec(word, "INT64", (-1,)) for word in words.split()) for words in (takes, makes))
    return StepInfo(name, inputs, outputs)


@pytest.mark.parametrize(
    ("preproc", "postproc", "missing"),
    [
        ([], [info("join", "next length", "out")], "join takes 'length'"),
        ([info("parse", "text", "digits")], [], "the engine takes 'number'"),
        ([info("parse", "text", "a"), info("more", "b", "number")], [], "more takes 'b'"),
        ([info("parse", "text", "number")], [info("join", "next text number", "out")], None),
        ([info("anything", "", "digits")], [], None),
        ([info("parse", "text", ""), info("more", "b", "c")], [], None),
    ],
)
def test_what_nobody_makes_is_named_before_the_first_request(
    preproc: list[StepInfo], postproc: list[StepInfo], missing: str | None
) -> None:
    if missing is None:
        check_complete(preproc, Increment(), postproc)
        return
    with pytest.raises(ModelLoadFailed, match=f"not complete: {missing}, which nothing makes"):
        check_complete(preproc, Increment(), postproc)


def test_closing_closes_the_engine() -> None:
    engine = Increment()
    TensorPipeline(engine).close()
    assert engine.closed


async def test_steps_of_a_request_run_around_the_engine_and_send_no_more_than_is_needed() -> None:
    engine, steps = Increment(), MemorySteps(PARSE, JOIN)
    pipeline = around(engine, steps)
    assert (pipeline.inputs, pipeline.outputs) == (Parse.inputs, Join.outputs)
    ran: list[Tensors] = []

    async def run(inputs: Tensors) -> Tensors:
        ran.append(inputs)
        return engine.run(inputs)

    made = await pipeline.infer(text(b"7", b"10"), run, LIMITS)
    assert made["joined"].tolist() == [[8, 1], [11, 2]]
    assert [set(inputs) for inputs in ran] == [{"number"}]
    before, after = steps.seen
    assert (before.half, set(before.wanted or ())) == ("preproc", {"number", "length"})
    assert (after.half, set(after.tensors)) == ("postproc", {"next", "length"})


@pytest.mark.parametrize("halves", ["preproc", "postproc", "both"])
async def test_with_step_processes_and_without_the_answer_is_the_same(halves: str) -> None:
    preproc = PARSE if halves != "postproc" else Chain()
    postproc = Chain([("double", Double())]) if halves != "preproc" else Chain()
    engine = Increment()
    inputs = text(b"7") if halves != "postproc" else {"number": np.array([7])}

    async def run(inputs: Tensors) -> Tensors:
        return engine.run(inputs)

    apart = await around(engine, MemorySteps(preproc, postproc)).infer(inputs, run, LIMITS)
    together = TensorPipeline(engine, preproc=preproc, postproc=postproc).run(inputs)
    assert plain(apart) == plain(together)


class Double:
    """A step that says nothing of itself."""

    inputs = outputs = ()

    def __call__(self, tensors: Tensors) -> Tensors:
        return {"double": tensors["next"] * 2}


def plain(tensors: Tensors) -> dict[str, object]:
    def one(array: Array) -> object:
        return array.tolist()

    return {name: one(array) for name, array in tensors.items()}


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"text": np.zeros(2)}, "'text' must be BYTES"),
        ({"text": np.empty((0,), object)}, "'text' has no rows"),
        ({"text": np.full(9, b"1", object)}, "the request has 9 rows; at most 8 are allowed"),
        ({"text": np.array([b"1"], object), "number": np.array([1])}, "no input 'number'"),
    ],
)
async def test_inputs_are_checked_before_a_step_process_sees_them(inputs: Tensors, reason: str) -> None:
    steps = MemorySteps(PARSE)

    async def run(inputs: Tensors) -> Tensors:
        raise AssertionError("nothing gets so far")

    with pytest.raises(InvalidRequest, match=reason):
        await around(Increment(), steps).infer(inputs, run, LIMITS)
    assert steps.seen == []


async def test_a_large_request_runs_in_parts_of_one_run_each() -> None:
    engine, steps = Increment(), MemorySteps(PARSE, JOIN)
    both_began = asyncio.Barrier(3)

    async def run(inputs: Tensors) -> Tensors:
        await asyncio.wait_for(both_began.wait(), 5)
        return engine.run(inputs)

    made = await around(engine, steps).infer(text(*(b"%d" % number for number in range(8))), run, LIMITS)
    assert made["joined"][:, 0].tolist() == list(range(1, 9))
    assert [len(message.tensors["text"]) for message in steps.seen if message.half == "preproc"] == [3, 3, 2]


async def test_a_part_that_fails_ends_the_others() -> None:
    ended: list[str] = []

    async def run(inputs: Tensors) -> Tensors:
        if 7 in inputs["number"]:
            raise EngineFailed("seven")
        try:
            return await asyncio.Future()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(EngineFailed, match="seven"):
        await around(Increment(), MemorySteps(PARSE)).infer(text(*(b"%d" % number for number in range(8))), run, LIMITS)
    assert ended == ["cancelled"] * 2


async def test_a_row_of_a_later_part_is_told_with_where_its_counting_begins() -> None:
    class Refuse(Parse):
        def __call__(self, tensors: Tensors) -> Tensors:
            for row, fish in enumerate(tensors["text"]):
                if fish == b"7":
                    raise InvalidRequest(f"row {row} is no fish", param="text")
            return super().__call__(tensors)

    async def run(inputs: Tensors) -> Tensors:
        return Increment().run(inputs)

    pipeline = around(Increment(), MemorySteps(Chain([("refuse", Refuse())])))
    with pytest.raises(InvalidRequest, match=r"row 1 is no fish \(counted from row 6\)") as refused:
        await pipeline.infer(text(*(b"%d" % number for number in range(8))), run, LIMITS)
    assert refused.value.param == "text"
    with pytest.raises(InvalidRequest, match=r"row 0 is no fish$"):
        await pipeline.infer(text(b"7", b"1", b"1", b"1"), run, LIMITS)


async def test_an_engine_that_takes_anything_gets_all_that_was_made() -> None:
    class Rename:
        inputs = (TensorSpec("input", "INT64", (-1,)),)
        outputs = (TensorSpec("input", "INT64", (-1,)),)

        def __call__(self, tensors: Tensors) -> Tensors:
            return {"input": tensors["input"] + 1}

    engine, steps = EchoEngine(), MemorySteps(Chain([("rename", Rename())]))

    async def run(inputs: Tensors) -> Tensors:
        return engine.run(inputs)

    assert plain(await around(engine, steps).infer({"input": np.array([1])}, run, None)) == {"output": [2]}


async def test_an_answer_in_parts_goes_through_the_steps_after_it_part_by_part() -> None:
    steps = MemorySteps(PARSE, JOIN)
    closed: list[bool] = []

    async def stream(inputs: Tensors) -> AsyncGenerator[Tensors]:
        try:
            for add in range(100):
                yield {"next": inputs["number"] + add}
        finally:
            closed.append(True)

    async with aclosing(around(Increment(), steps).stream(text(b"10"), stream, LIMITS)) as parts:
        made = [(await anext(parts))["joined"].tolist() for _ in range(3)]
    assert made == [[[10, 2]], [[11, 2]], [[12, 2]]]
    assert closed == [True]
    assert [message.half for message in steps.seen] == ["preproc", "postproc", "postproc", "postproc"]


async def test_closing_ends_the_step_processes() -> None:
    steps = MemorySteps(PARSE)
    await around(Increment(), steps).close()
    assert steps.closed


class OneAtATime(Parse):
    """A step that cannot be used by two threads."""

    def __init__(self) -> None:
        self._used = threading.Lock()

    def __call__(self, tensors: Tensors) -> Tensors:
        assert self._used.acquire(blocking=False)
        time.sleep(0.001)
        self._used.release()
        return super().__call__(tensors)


def test_runs_at_once_use_the_steps_one_after_the_other() -> None:
    pipeline = TensorPipeline(Increment(), preproc=Chain([("parse", OneAtATime())]), postproc=JOIN)
    asked = [np.array([str(number).encode()], np.object_) for number in range(20)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda text: pipeline.run({"text": text})["joined"].tolist(), asked))
    assert answers == [[[number + 1, len(str(number))]] for number in range(20)]
