from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shoal.engines.python
from shoal.engines.base import EngineOptions
from shoal.engines.python import PythonEngine, construct_language_engine
from shoal.engines.toy import ToyEngine
from shoal.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from shoal.types import Tensors, TensorSpec

SOURCE = """
import numpy as np
from shoal.errors import InvalidRequest
from shoal.types import TensorSpec

class Doubler:
    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs = (TensorSpec("y", "FP32", (-1, 2)),)
    def run(self, inputs):
        return {"y": inputs["x"] * 2}

class Predictor:
    batchable = False
    def __init__(self, options):
        self.threads = options.threads
        self.closed = False
    def predict(self, inputs):
        return {"threads": np.array([self.threads])}
    def close(self):
        self.closed = True

class OfAShard:
    def __init__(self, shard):
        self.shard = shard
    def run(self, inputs):
        return {"shard": np.array([self.shard])}

class Broken:
    def run(self, inputs):
        raise ValueError("the flux capacitor is empty")

class Leaver:
    def run(self, inputs):
        raise SystemExit("no such option")

class Picky:
    def run(self, inputs):
        raise InvalidRequest("only Tuesdays")

class ReturnsAList:
    def run(self, inputs):
        return {"y": [1, 2]}

class Letters:
    inputs = (TensorSpec("x", "INT64", (-1,)),)
    outputs = (TensorSpec("y", "INT64", (-1,)),)
    closed = 0
    def stream(self, inputs):
        try:
            yield {"y": inputs["x"]}
            yield {"y": inputs["x"] + 1}
            if (inputs["x"] == 13).any():
                raise ValueError("no luck")
        finally:
            Letters.closed += 1

class NumbersItsOutputs:
    def run(self, inputs):
        return {1: inputs["x"]}

class LiesAboutItsOutputs:
    outputs = (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "FP32", (-1,)))
    def run(self, inputs):
        return inputs

class Mute:
    pass

class FailsToStart:
    def __init__(self):
        raise OSError("no such camera")

class BadSpecs:
    inputs = ("x",)
    run = print
"""

Make = Callable[[str], PythonEngine]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    (tmp_path / "users_model.py").write_text(SOURCE)
    (tmp_path / "unfinished.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_model", raising=False)
    return lambda target: PythonEngine(target, EngineOptions(threads=3))


def test_a_class_runs_and_says_what_it_takes(make: Make) -> None:
    engine = make("users_model:Doubler")
    assert engine.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert engine.outputs == (TensorSpec("y", "FP32", (-1, 2)),)
    assert engine.batchable
    assert engine.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]


def test_declared_inputs_are_checked_before_the_class_sees_them(make: Make) -> None:
    with pytest.raises(InvalidRequest, match="must have shape"):
        make("users_model:Doubler").run({"x": np.ones((1, 3), np.float32)})


def test_predict_options_and_batchable_are_understood(make: Make) -> None:
    engine = make("users_model:Predictor")
    assert not engine.batchable
    assert engine.inputs == ()
    assert engine.run({"anything": np.zeros(1)})["threads"].tolist() == [3]
    engine.close()
    assert engine._model.closed  # type: ignore[attr-defined]


def test_a_class_may_ask_which_shard_it_is(make: Make) -> None:
    assert PythonEngine("users_model:OfAShard", EngineOptions(shard=2)).run({})["shard"].tolist() == [2]
    assert PythonEngine("users_model:Doubler", EngineOptions(shard=2)).run({"x": np.ones((1, 2), np.float32)})


def test_a_class_without_close_is_closed_in_silence(make: Make) -> None:
    make("users_model:Doubler").close()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:Model", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("unfinished:Model", "No module named 'no_such_library'"),
        ("users_model:Nothing", "has no attribute 'Nothing'"),
        ("users_model:FailsToStart", "OSError: no such camera"),
        ("users_model:Mute", "none of the methods 'run', 'predict' and 'stream'"),
        ("users_model:BadSpecs", "must be TensorSpec values"),
        ("users_model", "cannot load users_model"),
    ],
)
def test_what_cannot_be_loaded_says_why(make: Make, target: str, reason: str) -> None:
    with pytest.raises(ModelLoadFailed, match=reason):
        make(target)


def test_a_failing_class_is_the_engines_fault(make: Make) -> None:
    with pytest.raises(EngineFailed, match="Broken failed: ValueError: the flux capacitor is empty"):
        make("users_model:Broken").run({})


def test_a_class_that_would_end_the_process_fails_alone(make: Make) -> None:
    with pytest.raises(EngineFailed, match="Leaver failed: SystemExit: no such option"):
        make("users_model:Leaver").run({})


def test_a_class_may_refuse_a_request(make: Make) -> None:
    with pytest.raises(InvalidRequest, match="only Tuesdays"):
        make("users_model:Picky").run({})


@pytest.mark.parametrize("target", ["users_model:ReturnsAList", "users_model:NumbersItsOutputs"])
def test_a_class_must_return_named_arrays(make: Make, target: str) -> None:
    with pytest.raises(EngineFailed, match="must return a dict of names and numpy arrays"):
        make(target).run({"x": np.zeros(1)})


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        ({"y": np.zeros((1, 2), np.float32)}, "did not give its output 'z'"),
        ({"y": np.zeros((1, 2))}, "output 'y' must be FP32, not FP64"),
        ({"y": np.zeros((1, 3), np.float32)}, r"output 'y' must have shape \[-1, 2\], not \[1, 3\]"),
    ],
)
def test_declared_outputs_are_checked_after_the_class_made_them(make: Make, outputs: Tensors, complaint: str) -> None:
    with pytest.raises(EngineFailed, match=complaint):
        make("users_model:LiesAboutItsOutputs").run(outputs)


def test_a_class_may_answer_in_parts(make: Make) -> None:
    engine = make("users_model:Letters")
    assert engine.streams
    assert not make("users_model:Doubler").streams
    parts = engine.stream({"x": np.array([1, 2])})
    assert [part["y"].tolist() for part in parts] == [[1, 2], [2, 3]]


def test_a_stream_that_fails_or_is_left_ends_the_class_own_generator(make: Make) -> None:
    engine = make("users_model:Letters")
    letters = type(engine._model)
    with pytest.raises(EngineFailed, match="Letters failed: ValueError: no luck"):
        list(engine.stream({"x": np.array([13])}))
    assert letters.closed == 1  # type: ignore[attr-defined]
    parts = engine.stream({"x": np.array([1])})
    next(parts)
    parts.close()
    assert letters.closed == 2  # type: ignore[attr-defined]


def test_inputs_of_a_stream_are_checked_too(make: Make) -> None:
    with pytest.raises(InvalidRequest, match="'x' must be INT64"):
        next(make("users_model:Letters").stream({"x": np.zeros(1)}))


def test_the_examples_in_the_documentation_work(make: Make, tmp_path: Path) -> None:
    documentation = shoal.engines.python.__doc__ or ""
    _, doubler, countdown = documentation.split("::\n")
    source = textwrap.dedent(doubler.split("\nThe method")[0]) + textwrap.dedent(countdown)
    (tmp_path / "documented.py").write_text("from collections.abc import Iterator\n" + source)
    engine = make("documented:Doubler")
    assert engine.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2, 2, 2, 2]]
    parts = make("documented:Countdown").stream({"start": np.array([2, 1])})
    assert [part["left"].tolist() for part in parts] == [[2, 1], [1, 0], [0, 0]]


def test_a_language_engine_is_made_of_a_class_that_is_one(make: Make) -> None:
    engine = construct_language_engine("shoal.engines.toy:ToyEngine", EngineOptions())
    assert isinstance(engine, ToyEngine)
    make("users_model:Doubler")
    with pytest.raises(ModelLoadFailed, match="users_model:Doubler is no LanguageEngine"):
        construct_language_engine("users_model:Doubler", EngineOptions())
