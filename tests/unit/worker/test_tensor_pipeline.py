from __future__ import annotations

import numpy as np
import pytest

from shoal.engines.base import TensorEngine
from shoal.engines.echo import EchoEngine
from shoal.errors import EngineFailed, InvalidRequest
from shoal.types import Tensors, TensorSpec
from shoal.worker.pipeline import TensorPipeline


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


def text(*rows: bytes) -> Tensors:
    return {"text": np.array(rows, dtype=object)}


def test_what_a_step_makes_reaches_every_step_after_it_and_only_the_last_outputs_leave() -> None:
    engine = Increment()
    pipeline = TensorPipeline(engine, preproc=[Parse()], postproc=[Join()])
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
    pipeline = TensorPipeline(Increment(), preproc=[Parse()])
    with pytest.raises(InvalidRequest, match="'text' must be BYTES"):
        pipeline.run({"text": np.zeros(2)})
    with pytest.raises(InvalidRequest, match="no input 'number'"):
        pipeline.run(text(b"1") | {"number": np.array([1])})


def test_an_engine_that_takes_anything_gets_everything() -> None:
    pipeline = TensorPipeline(EchoEngine())
    assert not pipeline.batchable
    assert pipeline.run({"input": np.array(5)})["output"] == 5


def test_a_step_whose_input_nobody_makes_is_named() -> None:
    with pytest.raises(EngineFailed, match="nothing makes 'length'"):
        TensorPipeline(Increment(), postproc=[Join()]).run({"number": np.array([1])})


def test_closing_closes_the_engine() -> None:
    engine = Increment()
    TensorPipeline(engine).close()
    assert engine.closed
