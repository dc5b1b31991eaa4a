"""What Shoal's servers are measured by: the same work without a server, or with the least of one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from generation import bare as generation_loop

from rivals.entrant import SERVERS, Figures, Loop, Place, Server
from rivals.shapes import data, same
from shoal.config import Config, ModelConfig, cache_folder
from shoal.engines.base import EngineOptions
from shoal.model_registry import make_spec
from shoal.types import Array
from shoal.worker.loading import tensor_parts

LOOP_SECONDS = 8.0


def _echo(place: Place) -> Sequence[str]:
    return [str(place.python), str(SERVERS / "bare_echo.py"), str(place.port)]


ECHO = Server(name="bare ASGI echo", command=_echo, path="/", ask=data, read=same)


def embed(uri: str, texts: Sequence[str], cores: int = 1) -> Array:
    return next(_embeddings(uri, texts, cores))


def embeddings(uri: str, texts: Sequence[str], cores: int) -> Figures:
    """All texts as one batch, again and again."""
    runs = _embeddings(uri, texts, cores)
    for _ in range(3):
        next(runs)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < LOOP_SECONDS:
        next(runs)
        count += 1
    return Figures(rate=count * len(texts) / (time.perf_counter() - began))


def _embeddings(uri: str, texts: Sequence[str], cores: int) -> Iterator[Array]:
    spec = make_spec("minilm", ModelConfig(uri=uri))
    pipeline = tensor_parts(spec, cache_folder(Config()), EngineOptions(threads=cores)).join()
    batch = {"text": np.array([[text.encode()] for text in texts], np.object_)}
    while True:
        yield pipeline.run(batch)["embedding"]


def generation(cores: int, clients: int) -> Figures:
    result = generation_loop(clients, cores)
    return Figures(rate=result.tokens_per_second, first_p50=result.first_token)


GENERATION = Loop("bare loop, OpenVINO", generation)
