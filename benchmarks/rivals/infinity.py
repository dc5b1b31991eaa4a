"""Infinity, on ONNX Runtime by way of Optimum."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx

from rivals.entrant import Place, Server
from rivals.models import MINILM


def _run(place: Place) -> Sequence[str]:
    # It finds the model's file only where it runs.
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(MINILM / name, place.folder / name)
    _save_with_output(place.folder / "model.onnx", "last_hidden_state")
    serve = [str(place.bin / "infinity_emb"), "v2", "--model-id", ".", "--served-model-name", "minilm"]
    serve += [
        "--engine",
        "optimum",
        "--device",
        "cpu",
        "--batch-size",
        "32",
        "--no-bettertransformer",
        "--pooling-method",
        "mean",
    ]
    return [*serve, "--host", "127.0.0.1", "--port", str(place.port)]


def _save_with_output(path: Path, name: str) -> None:
    """Shoal's graph, with the name for its output that Optimum looks for."""
    model = onnx.load(MINILM / "model.onnx")
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = [name if each == output.name else each for each in node.output]
    output.name = name
    onnx.save(model, path)


EMBEDDINGS = Server(
    name="Infinity, ONNX Runtime",
    command=_run,
    path="/embeddings",
    ask=lambda text: {"model": "minilm", "input": [text]},
    read=lambda answer: answer["data"][0]["embedding"],
    packages=("infinity-emb[server,optimum]==0.0.78", "torch==2.13.0"),
    variables={"HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
)
