"""Shoal: one coordinator, and one worker that has all cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from rivals.entrant import Place, Server
from rivals.shapes import output, tensor

#: All that a request can pass through. No question comes twice, so nothing is answered from the cache.
ALL_ON: Final[Mapping[str, Any]] = {"cache": {}, "coalesce": True}


def serve(models: Mapping[str, Any]) -> Callable[[Place], Sequence[str]]:
    """``shoal serve`` with a configuration file of these models."""

    def command(place: Place) -> Sequence[str]:
        file = place.folder / "shoal.yaml"
        file.write_bytes(msgspec.yaml.encode({"models": models, "engine": {"max_sequences": max(16, place.clients)}}))
        shoal = [str(place.python), "-m", "shoal", "serve", "--config", str(file), "--workers", "1"]
        return [*shoal, "--listen-port", str(place.port)]

    return command


_SCHEMA: Final = {name: [{"name": name[:-1], "dtype": "INT64", "shape": [-1]}] for name in ("inputs", "outputs")}


def _echo(name: str, settings: Mapping[str, Any]) -> Server:
    command = serve({"echo": {"uri": "echo", **settings}})
    return Server(name=name, command=command, path="/v2/models/echo/infer", ask=tensor, read=output)


ECHO = _echo("Shoal", {**ALL_ON, **_SCHEMA})
PLAIN_ECHO = _echo("Shoal, defaults", {})


def _embeddings(name: str, uri: str) -> Server:
    return Server(
        name=name,
        command=serve({"minilm": {"uri": uri, **ALL_ON}}),
        path="/v1/embeddings",
        ask=lambda text: {"model": "minilm", "input": text},
        read=lambda answer: answer["data"][0]["embedding"],
    )


ONNX_EMBEDDINGS = _embeddings("Shoal, ONNX Runtime", "minilm")
OPENVINO_EMBEDDINGS = _embeddings("Shoal, OpenVINO", "minilm?engine=openvino")


def _generation(name: str, uri: str) -> Server:
    command = serve({"smollm2": {"uri": uri, **ALL_ON}})
    return Server(name=name, command=command, path="/v1/completions")


OPENVINO_GENERATION = _generation("Shoal, OpenVINO", "smollm2?engine=openvino")
LLAMA_GENERATION = _generation("Shoal, llama.cpp", "smollm2?engine=llama")
