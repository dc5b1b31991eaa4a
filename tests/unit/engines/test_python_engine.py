from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shoal.engines.python
from shoal.engines.base import EngineOptions
from shoal.engines.python import PythonEngine
from shoal.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from shoal.types import TensorSpec

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

class Broken:
    def run(self, inputs):
        raise ValueError("the flux capacitor is empty")

class Picky:
    def run(self, inputs):
        raise InvalidRequest("only Tuesdays")

class ReturnsAList:
    def run(self, inputs):
        return {"y": [1, 2]}

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


def test_a_class_may_refuse_a_request(make: Make) -> None:
    with pytest.raises(InvalidRequest, match="only Tuesdays"):
        make("users_model:Picky").run({})


def test_a_class_must_return_arrays(make: Make) -> None:
    with pytest.raises(EngineFailed, match="must return a dict of names and numpy arrays"):
        make("users_model:ReturnsAList").run({})


def test_the_example_in_the_documentation_works(make: Make, tmp_path: Path) -> None:
    documentation = shoal.engines.python.__doc__ or ""
    example = documentation.split("::\n")[1].split("\nThe method")[0]
    (tmp_path / "documented.py").write_text(textwrap.dedent(example))
    engine = make("documented:Doubler")
    assert engine.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2, 2, 2, 2]]
