"""Infinity, on ONNX Runtime by way of Optimum."""

from __future__ import annotations

from collections.abc import Sequence

from rivals.entrant import Place, Server
from rivals.models import MINILM


def _run(place: Place) -> Sequence[str]:
    serve = [str(place.bin / "infinity_emb"), "v2", "--model-id", str(MINILM), "--served-model-name", "minilm"]
    serve += ["--engine", "optimum", "--device", "cpu", "--batch-size", "32", "--no-bettertransformer"]
    return [*serve, "--host", "127.0.0.1", "--port", str(place.port)]


EMBEDDINGS = Server(
    name="Infinity, ONNX Runtime",
    command=_run,
    path="/embeddings",
    ask=lambda text: {"model": "minilm", "input": [text]},
    read=lambda answer: answer["data"][0]["embedding"],
    packages=("infinity-emb[server,optimum]==0.0.78", "torch==2.13.0"),
    variables={"HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
)
