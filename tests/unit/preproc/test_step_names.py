from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.config import StepConfig
from shoal.errors import ConfigError, EngineFailed, ModelLoadFailed
from shoal.preproc import BUILT_IN, make_step, read_step
from shoal.types import StepSpec, Tensors, TensorSpec


def double(tensors: Tensors, *, times: int = 2) -> Tensors:
    return {"y": tensors["x"] * times}


class Shift:
    inputs = (TensorSpec("x", "INT64", (-1,)),)
    outputs = (TensorSpec("y", "INT64", (-1,)),)

    def __init__(self, by: int = 1) -> None:
        self._by = by

    def __call__(self, tensors: Tensors) -> Tensors:
        return {"y": tensors["x"] + self._by}


class InFolder:
    def __init__(self, folder: Path | None, file: str) -> None:
        self.content = (folder or Path()) / file

    def __call__(self, tensors: Tensors) -> Tensors:
        return {"there": np.array([self.content.exists()])}


class Misdescribed:
    inputs = ("x",)


def nothing(tensors: Tensors) -> None:
    return None


HERE = __name__
X = {"x": np.array([1, 2])}


def make(name: str, folder: Path | None = None, **options: Any) -> Any:
    return make_step(StepSpec(f"{HERE}:{name}", options), folder)


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("tokenize", StepSpec("tokenize")),
        ({"resize": {"width": 2}}, StepSpec("resize", {"width": 2})),
        ("my.steps:Clean", StepSpec("my.steps:Clean")),
    ],
)
def test_a_step_is_a_name_with_or_without_options(written: StepConfig, spec: StepSpec) -> None:
    assert read_step(written) == spec


@pytest.mark.parametrize(
    ("written", "reason"),
    [("shrink", "no step 'shrink'; there are .*resize"), ({}, "not nothing"), ({"a": {}, "b": {}}, "not a, b")],
)
def test_what_is_no_step_is_refused(written: StepConfig, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_step(written)


def test_every_built_in_step_can_be_imported() -> None:
    for name in BUILT_IN:
        with pytest.raises(ModelLoadFailed, match=f"step '{name}': .*unknown field `no_such_option`"):
            make_step(StepSpec(name, {"no_such_option": 1, "k": 1, "labels": "x", "width": 1, "height": 1}), None)


def test_a_function_of_the_users_takes_all_arrays_and_the_options() -> None:
    step = make("double", times=3)
    assert step(X)["y"].tolist() == [3, 6]
    assert (step.inputs, step.outputs) == ((), ())


def test_a_class_of_the_users_is_made_with_the_options_and_describes_itself() -> None:
    step = make("Shift", by=10)
    assert step(X)["y"].tolist() == [11, 12]
    assert (step.inputs, step.outputs) == (Shift.inputs, Shift.outputs)


def test_a_class_that_wants_the_models_folder_gets_it(tmp_path: Path) -> None:
    (tmp_path / "words.txt").touch()
    assert make("InFolder", tmp_path, file="words.txt")(X)["there"].tolist() == [True]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("double", {"often": 3}, "TypeError: .*often"),
        ("Shift", {"often": 3}, "TypeError: .*often"),
        ("missing", {}, "AttributeError: .*missing"),
        ("Misdescribed", {}, "its inputs must be TensorSpec"),
    ],
)
def test_a_step_of_the_users_that_cannot_be_made_is_named(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelLoadFailed, match=f"step '{HERE}:{name}': {reason}"):
        make(name, **options)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelLoadFailed, match=r"step 'no_such\.module:f': No module named 'no_such'"):
        make_step(StepSpec("no_such.module:f"), None)


def test_a_step_that_needs_a_package_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shoal.preproc.image", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModelLoadFailed, match=r"step 'decode_image': .*pip install 'shoal\[image\]'"):
        make_step(StepSpec("decode_image"), None)


def test_what_is_no_dict_of_arrays_is_refused() -> None:
    with pytest.raises(EngineFailed, match="must return a dict of names and numpy arrays"):
        make("nothing")(X)
