"""Build all-MiniLM-L6-v2 as ONNX from its safetensors, with neither PyTorch nor an exporter.

The graph is a plain BERT encoder: ``input_ids`` and ``attention_mask`` INT64 [batch, seq] to ``hidden`` FP32
[batch, seq, 384]. Pooling is a postproc step, so that it can be chosen and the graph stays a model.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from shoal.model_store.progress import Progress
from shoal.types import Array, Tensors

OPSET = 20  # the first with Gelu
IR_VERSION = 10  # what ONNX Runtime of the same age reads
MASKED = 1e4  # taken off a masked score: enough for exp() to be 0, and still a number in 16 bits

#: What the steps around the graph read.
STEP_FILES = ("config.json", "tokenizer.json", "sentence_bert_config.json")


class _Shape(msgspec.Struct, frozen=True):
    """The part of the packaged ``config.json`` that shapes the graph."""

    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    layer_norm_eps: float


def convert(source: Path, destination: Path, progress: Progress) -> None:
    """Write ``model.onnx`` and what the steps around it read into the new folder ``destination``."""
    shape = msgspec.json.decode((source / "config.json").read_bytes(), type=_Shape)
    builder = _Encoder(shape, load_file(source / "model.safetensors"))
    hidden = builder.embed()
    for layer in range(shape.num_hidden_layers):
        hidden = builder.layer(layer, hidden)
        progress("build the graph", (layer + 1) / shape.num_hidden_layers)
    destination.mkdir()
    onnx.save(builder.finish(hidden), destination / "model.onnx")
    for name in STEP_FILES:
        shutil.copyfile(source / name, destination / name)


class _Graph:
    """Nodes and constants of a growing graph; a value is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append one node and return the name of its output."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: Array, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))


class _Encoder:
    """BERT, layer by layer, in the order a token goes through it."""

    def __init__(self, shape: _Shape, weights: Tensors) -> None:
        self._shape = shape
        self._weights = weights
        self._graph = _Graph()
        self._mask_bias = self._bias_of_mask()

    def _bias_of_mask(self) -> str:
        """[batch, 1, 1, seq]: 0 where a token is, very low where padding is."""
        graph = self._graph
        mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        lowered = graph.op("Sub", graph.op("Unsqueeze", mask, graph.ints(1, 2)), graph.number(1.0))
        return graph.op("Mul", lowered, graph.number(MASKED))

    def embed(self) -> str:
        graph = self._graph
        words = graph.op("Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids", axis=0)
        # A slice of the table, no Gather of Range(seq): ONNX Runtime 1.32 rewrites that to a broken Slice.
        length = graph.op("Shape", "input_ids", start=1, end=2)
        table = self._weight("embeddings.position_embeddings.weight")
        positions = graph.op("Slice", table, graph.ints(0), length, graph.ints(0))
        first_segment = graph.constant(self._weights["embeddings.token_type_embeddings.weight"][0])
        total = graph.op("Add", graph.op("Add", words, positions), first_segment)
        return self._norm(total, "embeddings.LayerNorm")

    def layer(self, index: int, hidden: str) -> str:
        """One encoder layer: attention and a feed-forward part, each added to its input and normalised."""
        name = f"encoder.layer.{index}"
        graph = self._graph
        attended = self._linear(self._attention(f"{name}.attention.self", hidden), f"{name}.attention.output.dense")
        hidden = self._norm(graph.op("Add", attended, hidden), f"{name}.attention.output.LayerNorm")
        inner = graph.op("Gelu", self._linear(hidden, f"{name}.intermediate.dense"))
        forward = self._linear(inner, f"{name}.output.dense")
        return self._norm(graph.op("Add", forward, hidden), f"{name}.output.LayerNorm")

    def _attention(self, name: str, hidden: str) -> str:
        """[batch, seq, hidden_size] to the same, over [batch, head, seq, head_size]."""
        graph, shape = self._graph, self._shape
        head_size = shape.hidden_size // shape.num_attention_heads
        by_head = graph.ints(0, 0, shape.num_attention_heads, head_size)  # 0 keeps a dimension

        def heads(part: str, order: list[int]) -> str:
            projected = graph.op("Reshape", self._linear(hidden, f"{name}.{part}"), by_head)
            return graph.op("Transpose", projected, perm=order)

        query, value = heads("query", [0, 2, 1, 3]), heads("value", [0, 2, 1, 3])
        key = heads("key", [0, 2, 3, 1])  # transposed for the product
        scores = graph.op("Mul", graph.op("MatMul", query, key), graph.number(head_size**-0.5))
        shares = graph.op("Softmax", graph.op("Add", scores, self._mask_bias), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", shares, value), perm=[0, 2, 1, 3])
        return graph.op("Reshape", mixed, graph.ints(0, 0, shape.hidden_size))

    def finish(self, hidden: str) -> onnx.ModelProto:
        self._graph.nodes.append(helper.make_node("Identity", [hidden], ["hidden"], name="hidden"))
        graph = helper.make_graph(
            self._graph.nodes,
            "minilm",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
                for name in ("input_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "seq", self._shape.hidden_size])],
            self._graph.constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="shoal"
        )
        onnx.checker.check_model(model)
        return model

    def _weight(self, name: str) -> str:
        return self._graph.constant(self._weights[name], name)

    def _linear(self, value: str, name: str) -> str:
        weight = self._graph.constant(self._weights[f"{name}.weight"].T, f"{name}.weight")
        return self._graph.op("Add", self._graph.op("MatMul", value, weight), self._weight(f"{name}.bias"))

    def _norm(self, value: str, name: str) -> str:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        epsilon = self._shape.layer_norm_eps
        return self._graph.op("LayerNormalization", value, weight, bias, axis=-1, epsilon=epsilon)
