"""What the engines for ONNX files have in common, and where they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shoal.engines.base import EngineOptions, TensorEngine
from shoal.engines.onnx import OnnxEngine
from shoal.engines.openvino_tensors import OpenVINOTensorEngine
from shoal.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from shoal.types import DTYPES, TensorSpec

Engine = type[OnnxEngine] | type[OpenVINOTensorEngine]
Make = Callable[..., TensorEngine]


@pytest.fixture(params=[OnnxEngine, OpenVINOTensorEngine])
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.param
    return chosen


@pytest.fixture
def make(tmp_path: Path, engine: Engine) -> Make:
    """A model of one node, by default the sum of two vectors of three."""

    def build(
        kind: str = "Add",
        dtype: int = TensorProto.FLOAT,
        shape: Sequence[int | str] = ("batch", 3),
        names: Sequence[str] = ("a", "b"),
    ) -> TensorEngine:
        def value(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, dtype, shape)

        node = helper.make_node(kind, names, ["y"])
        graph = helper.make_graph([node], "one", [value(name) for name in names], [value("y")])
        path = tmp_path / "one.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
        return engine(path, EngineOptions())

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


def test_inputs_that_do_not_fit_each_other_are_an_error_and_no_answer_of_the_run_before(make: Make) -> None:
    adder, one = make(), np.ones((2, 3), np.float32)
    for _ in range(2):
        with pytest.raises((EngineFailed, InvalidRequest), match=r"ONNX Runtime failed|cannot take inputs of shapes"):
            adder.run({"a": one, "b": np.ones((5, 3), np.float32)})
        np.testing.assert_array_equal(adder.run({"a": one, "b": one})["y"], one + one)


only_onnx = pytest.mark.parametrize("engine", [OnnxEngine], indirect=True)
only_openvino = pytest.mark.parametrize("engine", [OpenVINOTensorEngine], indirect=True)


@only_openvino
def test_openvino_takes_no_strings_and_says_who_does(make: Make) -> None:
    with pytest.raises(ModelLoadFailed, match=r"'text' is a string, .* try engine=onnx"):
        make("Identity", TensorProto.STRING, ("batch", 1), ["text"])


def test_an_answer_is_not_overwritten_by_the_next(make: Make) -> None:
    adder, one = make(), np.ones((2, 3), np.float32)
    first = adder.run({"a": one, "b": one})["y"]
    adder.run({"a": one * 5, "b": one * 5})
    np.testing.assert_array_equal(first, one + one)


def test_arrays_that_cannot_be_written_or_have_gaps_are_taken(make: Make) -> None:
    wide = np.frombuffer(np.arange(12, dtype=np.float32).tobytes(), np.float32).reshape(2, 6)
    gaps = wide[:, ::2]
    np.testing.assert_array_equal(make().run({"a": gaps, "b": gaps})["y"], gaps * 2)
    half = wide[:, :3].copy()
    half.flags.writeable = False
    np.testing.assert_array_equal(make().run({"a": half, "b": half})["y"], half * 2)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (TensorProto.FLOAT, "FP32"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.INT64, "INT64"),
        (TensorProto.INT32, "INT32"),
        (TensorProto.INT8, "INT8"),
        (TensorProto.UINT8, "UINT8"),
        (TensorProto.BOOL, "BOOL"),
    ],
)
def test_numbers_of_every_type_come_out_as_they_went_in(make: Make, dtype: int, name: str) -> None:
    echo = make("Identity", dtype, ("batch", 3), ["x"])
    rows = np.array([[0, 1, 1], [1, 0, 1]], DTYPES[name])
    answer = echo.run({"x": rows})["y"]
    assert (echo.inputs[0].dtype, answer.dtype, answer.tolist()) == (name, rows.dtype, rows.tolist())


@only_onnx
def test_strings_travel_as_bytes(make: Make) -> None:
    engine = make("Identity", TensorProto.STRING, ("batch", 1), ["text"])
    assert engine.inputs == (TensorSpec("text", "BYTES", (-1, 1)),)
    rows = np.array([["Grüße".encode()], [b""]], dtype=object)
    assert engine.run({"text": rows})["y"].tolist() == rows.tolist()


@only_onnx
def test_bytes_that_are_no_text_are_refused(make: Make) -> None:
    engine = make("Identity", TensorProto.STRING, ("batch", 1), ["text"])
    with pytest.raises(InvalidRequest, match="'text' is not UTF-8"):
        engine.run({"text": np.array([[b"\xff"]], dtype=object)})


def test_a_type_that_cannot_travel_is_refused_at_loading(make: Make) -> None:
    with pytest.raises(ModelLoadFailed, match=r"tensor\(bfloat16\)|is a bf16"):
        make("Identity", TensorProto.BFLOAT16, ("batch", 3), ["x"])


@pytest.mark.parametrize("content", [None, b"this is no model"], ids=["missing", "not ONNX"])
def test_a_file_that_cannot_be_loaded_says_why(tmp_path: Path, engine: Engine, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"cannot load .*model\.onnx"):
        engine(path, EngineOptions())
