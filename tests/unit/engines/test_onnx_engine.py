from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shoal.engines.base import EngineOptions
from shoal.engines.onnx import OnnxEngine
from shoal.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from shoal.types import TensorSpec

Make = Callable[..., OnnxEngine]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A model of one node, by default the sum of two vectors of three."""

    def build(
        kind: str = "Add",
        dtype: int = TensorProto.FLOAT,
        shape: Sequence[int | str] = ("batch", 3),
        names: Sequence[str] = ("a", "b"),
    ) -> OnnxEngine:
        def value(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, dtype, shape)

        node = helper.make_node(kind, names, ["y"])
        graph = helper.make_graph([node], "one", [value(name) for name in names], [value("y")])
        path = tmp_path / "one.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
        return OnnxEngine(path, EngineOptions())

    return build


def test_a_model_says_what_it_takes_and_gives(make: Make) -> None:
    engine = make()
    assert engine.inputs == (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "FP32", (-1, 3)))
    assert engine.outputs == (TensorSpec("y", "FP32", (-1, 3)),)
    assert engine.batchable


def test_a_model_runs(make: Make) -> None:
    one = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(make().run({"a": one, "b": one})["y"], one + one)


def test_a_model_with_a_fixed_first_axis_is_not_batched(make: Make) -> None:
    assert not make(shape=(1, 3)).batchable


def test_inputs_that_do_not_fit_are_refused(make: Make) -> None:
    one = np.ones((2, 3), np.float32)
    with pytest.raises(InvalidRequest, match="'b' must be FP32, not FP64"):
        make().run({"a": one, "b": one.astype(np.float64)})


def test_a_failure_inside_the_runtime_is_the_engines_fault(make: Make) -> None:
    with pytest.raises(EngineFailed, match="ONNX Runtime failed"):
        make().run({"a": np.ones((2, 3), np.float32), "b": np.ones((5, 3), np.float32)})


def test_strings_travel_as_bytes(make: Make) -> None:
    engine = make("Identity", TensorProto.STRING, ("batch", 1), ["text"])
    assert engine.inputs == (TensorSpec("text", "BYTES", (-1, 1)),)
    rows = np.array([["Grüße".encode()], [b""]], dtype=object)
    assert engine.run({"text": rows})["y"].tolist() == rows.tolist()


def test_bytes_that_are_no_text_are_refused(make: Make) -> None:
    engine = make("Identity", TensorProto.STRING, ("batch", 1), ["text"])
    with pytest.raises(InvalidRequest, match="'text' is not UTF-8"):
        engine.run({"text": np.array([[b"\xff"]], dtype=object)})


def test_a_type_that_cannot_travel_is_refused_at_loading(make: Make) -> None:
    with pytest.raises(ModelLoadFailed, match=r"tensor\(bfloat16\)"):
        make("Identity", TensorProto.BFLOAT16, ("batch", 3), ["x"])


@pytest.mark.parametrize("content", [None, b"this is no model"], ids=["missing", "not ONNX"])
def test_a_file_that_cannot_be_loaded_says_why(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"cannot load .*model\.onnx"):
        OnnxEngine(path, EngineOptions())
