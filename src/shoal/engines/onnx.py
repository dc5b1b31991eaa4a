"""ONNX models on ONNX Runtime's CPU provider: the portable default for tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from shoal.engines.base import RUNS_AT_ONCE, EngineOptions, TensorEngine
from shoal.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from shoal.model_registry import check_inputs
from shoal.types import Array, Tensors, TensorSpec

_SEVERITY_ERROR = 3

#: What ONNX Runtime calls a type; bfloat16, complex and sequences have no place in the protocol.
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxEngine(TensorEngine):
    """Runs the model in ``path``. In float32 a row's answer may differ in its last bits with the batch's size.

    Runs beside each other share the threads: each computes itself what none of them has begun for it.

    Raises :class:`~shoal.errors.ModelLoadFailed`.
    """

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.runs_at_once = min(RUNS_AT_ONCE, options.threads)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        # Waiting threads sleep: spinning ones would take the cores of the other engines on this machine.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.log_severity_level = _SEVERITY_ERROR
        try:
            self._session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise ModelLoadFailed(f"ONNX Runtime cannot load {path}: {error}") from error
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        self.batchable = all(spec.shape and spec.shape[0] == -1 for spec in self.inputs + self.outputs)

    def run(self, inputs: Tensors) -> Tensors:
        check_inputs(inputs, self.inputs)
        feeds = {
            spec.name: _to_text(inputs[spec.name], spec.name) if spec.dtype == "BYTES" else inputs[spec.name]
            for spec in self.inputs
        }
        try:
            arrays = self._session.run(None, feeds)
        except ort_errors.InvalidArgument as error:
            raise InvalidRequest(f"ONNX Runtime refused the inputs: {error}") from error
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise EngineFailed(f"ONNX Runtime failed: {error}") from error
        return {
            spec.name: _to_bytes(array) if spec.dtype == "BYTES" else array
            for spec, array in zip(self.outputs, arrays, strict=True)
        }


def _spec(value: Any) -> TensorSpec:
    """From ONNX Runtime's description, whose free dimensions are names or None."""
    if value.type not in _DATATYPES:
        raise ModelLoadFailed(f"'{value.name}' is a {value.type}, which Shoal cannot carry")
    shape = tuple(dimension if isinstance(dimension, int) else -1 for dimension in value.shape)
    return TensorSpec(value.name, _DATATYPES[value.type], shape)


def _to_text(array: Array, name: str) -> Array:
    """ONNX strings are UTF-8 text."""
    try:
        texts = [element.decode() for element in array.flat]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input '{name}' is not UTF-8: {error}", param=name) from error
    return np.array(texts, dtype=np.object_).reshape(array.shape)


def _to_bytes(array: Array) -> Array:
    encoded = [element.encode() for element in array.flat]
    return np.array(encoded, dtype=np.object_).reshape(array.shape)
