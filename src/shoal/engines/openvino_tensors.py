"""ONNX models on OpenVINO: several times faster than ONNX Runtime where the CPU computes in bf16, and less exact.

A row's answer is the same to the bit in any company: tested with MiniLM, also where rows are padded to the longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import openvino as ov

from shoal.engines.base import RUNS_AT_ONCE, EngineOptions, TensorEngine
from shoal.engines.openvino_cpu import cpu_settings
from shoal.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from shoal.model_registry import check_inputs
from shoal.types import Tensors, TensorSpec

#: What OpenVINO calls a type. Strings need its tokenizer extension; bfloat16 has no place in the protocol.
_DATATYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
}

MAX_SHAPES = 4096  # that are remembered as good; looking at one takes some milliseconds

Shapes = tuple[tuple[int, ...], ...]


@dataclass
class _Lane:
    """One of ``streams`` that share the threads."""

    streams: int
    request: ov.InferRequest


class OpenVINOTensorEngine(TensorEngine):
    """Runs the ONNX model in ``path``. A run that begins beside another has half of the threads, so that neither waits
    for one that the other has. Raises :class:`~shoal.errors.ModelLoadFailed`.
    """

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self._threads = options.threads
        self.runs_at_once = min(RUNS_AT_ONCE, options.threads)
        try:
            self._model = ov.Core().read_model(path)
            self.inputs = tuple(_spec(port) for port in self._model.inputs)
            self.outputs = tuple(_spec(port) for port in self._model.outputs)
            self._shaped = self._model.clone()
            self._alone = self._compile(1)  # these two: lanes that nobody runs in
            self._beside = self._compile(self.runs_at_once) if self.runs_at_once > 1 else []
        except RuntimeError as error:
            raise ModelLoadFailed(f"OpenVINO cannot load {path}: {error}") from error
        self.batchable = all(spec.shape and spec.shape[0] == -1 for spec in self.inputs + self.outputs)
        self._running = 0
        self._good: set[Shapes] = set()
        self._lock = Lock()

    def _compile(self, streams: int) -> list[_Lane]:
        """Streams share the weights."""
        core = ov.Core()
        settings = cpu_settings(core, self._threads) | {"NUM_STREAMS": str(streams)}
        compiled = core.compile_model(self._model, "CPU", settings)
        return [_Lane(streams, compiled.create_infer_request()) for _ in range(streams)]

    def run(self, inputs: Tensors) -> Tensors:
        check_inputs(inputs, self.inputs)
        arrays = [np.require(inputs[spec.name], requirements=("C", "W")) for spec in self.inputs]
        self._check_shapes(tuple(array.shape for array in arrays))
        with self._lane() as lane:
            try:
                for index, array in enumerate(arrays):
                    lane.request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
                # Not infer(): on one thread that keeps an error to itself, and the results of the run before.
                lane.request.start_async()
                lane.request.wait()
            except RuntimeError as error:
                # What has failed once gives wrong numbers from then on, or crashes.
                lane.request = self._compile(lane.streams)[0].request
                raise EngineFailed(f"OpenVINO failed: {error}") from error
            # Copies: the next run writes its results into the same memory.
            return {
                spec.name: np.array(lane.request.get_output_tensor(index).data)
                for index, spec in enumerate(self.outputs)
            }

    @contextmanager
    def _lane(self) -> Iterator[_Lane]:
        with self._lock:
            lanes = self._beside if self._running else self._alone
            lane = lanes.pop()
            self._running += 1
        try:
            yield lane
        finally:
            with self._lock:
                lanes.append(lane)
                self._running -= 1

    def _check_shapes(self, shapes: Shapes) -> None:
        """Raises :class:`~shoal.errors.InvalidRequest` for shapes that do not fit each other."""
        with self._lock:
            if shapes in self._good:
                return
            try:
                self._shaped.reshape({index: ov.PartialShape(shape) for index, shape in enumerate(shapes)})
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise InvalidRequest(f"the model cannot take inputs of shapes {_say(shapes)}: {reason}") from error
            if len(self._good) >= MAX_SHAPES:
                self._good.clear()
            self._good.add(shapes)


def _say(shapes: Shapes) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


def _spec(port: ov.Output) -> TensorSpec:
    name, kind, shape = port.any_name, port.element_type.get_type_name(), port.partial_shape
    if kind not in _DATATYPES:
        raise ModelLoadFailed(f"'{name}' is a {kind}, which Shoal cannot carry to OpenVINO: try engine=onnx")
    if shape.rank.is_dynamic:
        raise ModelLoadFailed(f"'{name}' does not say how many dimensions it has")
    return TensorSpec(name, _DATATYPES[kind], tuple(-1 if size.is_dynamic else size.get_length() for size in shape))
