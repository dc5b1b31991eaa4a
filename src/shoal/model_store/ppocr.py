"""Make a PP-OCR recogniser ready for serving: the best class of each place in its graph, its characters in a file.

The graph as published gives the probabilities of 18,710 classes for every 8 pixels of a line, 6 MB for a line of 640
pixels, of which its reader needs the highest alone. So ``indices`` INT64 and ``probabilities`` FP32, both
[batch, places], are its outputs here.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from shoal.errors import ModelLoadFailed
from shoal.model_store.progress import Progress

LABELS_FILE = "characters.txt"


def convert(source: Path, destination: Path, progress: Progress) -> None:
    """Write ``model.onnx`` and ``characters.txt`` into the new folder ``destination``; ``source`` is a file."""
    model = onnx.load(source)
    characters = _characters(model)
    destination.mkdir()
    (destination / LABELS_FILE).write_bytes("\n".join(characters).encode() + b"\n")
    progress("read the characters", 0.5)
    _keep_the_best(model, len(characters))
    onnx.save(model, destination / "model.onnx")
    progress("write the model", 1.0)


def _characters(model: onnx.ModelProto) -> list[str]:
    """By class: the first is none, then come those of the model's dictionary, and the space."""
    dictionary = next((entry.value for entry in model.metadata_props if entry.key == "character"), "")
    if not dictionary:
        raise ModelLoadFailed("the recogniser has no dictionary in its metadata")
    return ["", *dictionary.split("\n"), " "]


def _keep_the_best(model: onnx.ModelProto, classes: int) -> None:
    graph = model.graph
    (output,) = graph.output
    if output.type.tensor_type.shape.dim[-1].dim_value != classes:
        raise ModelLoadFailed(f"the recogniser has other than {classes} classes, which is what its dictionary has")
    # In the form of the graph's own operator set, 11.
    graph.node.append(helper.make_node("ArgMax", [output.name], ["indices"], axis=-1, keepdims=0))
    graph.node.append(helper.make_node("ReduceMax", [output.name], ["probabilities"], axes=[-1], keepdims=0))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("indices", TensorProto.INT64, ["batch", "places"]))
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", "places"]))
