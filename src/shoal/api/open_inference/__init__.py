"""The Open Inference Protocol, version 2, with binary tensors; checked with Triton's own clients."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Final

from shoal.api.open_inference import infer, models, server
from shoal.api.open_inference.answers import (
    IndexEntry,
    InferAnswer,
    Metadata,
    ModelReady,
    ModelSettings,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from shoal.api.open_inference.schema import IndexBody, InferBody
from shoal.api.openapi import BINARY, READS_BODY, RUNNING, RUNS, Content, Header, Operation
from shoal.api.plane import Plane
from shoal.api.routing import Route
from shoal.errors import ModelNotFound, ModelUnavailable

#: What Triton has at these addresses and Shoal elsewhere, or not at all.
ABSENT: Final = MappingProxyType(
    {
        "/v2/systemsharedmemory": "shared memory is not supported; send tensors in the body, as binary data",
        "/v2/cudasharedmemory": "shared memory is not supported; send tensors in the body, as binary data",
        "/v2/repository/models/": "models are loaded and unloaded at /admin/models",
        "/v2/models/": "if these are statistics, they are at /metrics, in Prometheus' format",
        "/v2/trace": "spans are exported by OpenTelemetry, as configured",
        "/v2/logging": "logging is configured when the server starts",
    }
)

_LENGTH = Header(
    "Inference-Header-Content-Length",
    "Bytes of JSON at the beginning of the body; behind them are the binary tensors. Without it all is JSON.",
    {"type": "integer", "minimum": 0},
)
_KEY = Header(
    "x-shard-key", "What chooses the shard of a sharded model, in UTF-8", {"type": "string", "maxLength": infer.MAX_KEY}
)


def routes(plane: Plane) -> list[Route]:
    about_server = [
        Route("GET", "/v2", server.metadata, _says(ServerMetadata, "What this server is")),
        Route("GET", "/v2/health/live", server.live, _says(ServerLive, "Is the server alive?")),
        Route(
            "GET",
            "/v2/health/ready",
            partial(server.ready, plane),
            Operation("Is the server ready?", {200: (Content(ServerReady),)}, errors=(ModelUnavailable,)),
        ),
        Route(
            "POST",
            "/v2/repository/index",
            partial(models.index, plane),
            Operation(
                "Every version of every model",
                {200: (Content(list[IndexEntry]),)},
                body=(Content(IndexBody),),
                body_required=False,
                errors=READS_BODY,
            ),
        ),
    ]
    return about_server + [
        route
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for route in _model(plane, path)
    ]


def _model(plane: Plane, path: str) -> list[Route]:
    """The version that is live, or a named one, has the same addresses below it."""
    found = (ModelNotFound,)
    return [
        Route("GET", path, partial(models.metadata, plane), _says(Metadata, "What a model takes and gives", found)),
        Route(
            "GET",
            f"{path}/ready",
            partial(models.ready, plane),
            _says(ModelReady, "Is the model ready?", (*found, ModelUnavailable)),
        ),
        Route(
            "GET",
            f"{path}/config",
            partial(models.config, plane),
            _says(ModelSettings, "The model in the words of Triton's configuration", found),
        ),
        Route("POST", f"{path}/infer", partial(infer.infer, plane), _INFER, computes=True),
    ]


def _says(kind: type, summary: str, errors: tuple[type[ModelNotFound] | type[ModelUnavailable], ...] = ()) -> Operation:
    return Operation(summary, {200: (Content(kind),)}, errors=errors)


_INFER = Operation(
    "Run a tensor model",
    {200: (Content(InferAnswer), Content(media=BINARY))},
    body=(Content(InferBody), Content(media=BINARY)),
    errors=RUNS,
    headers=(_LENGTH, _KEY, *RUNNING),
)
