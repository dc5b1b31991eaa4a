"""POST /v1/embeddings: a tensor model with input ``text`` and output ``embedding``."""

from __future__ import annotations

import base64

import msgspec
import numpy as np

from shoal.api.asgi import Exchange
from shoal.api.limits import ApiLimits
from shoal.api.offload import encode_numbers, offload
from shoal.api.openai.answers import Embedding, EmbeddingList, EmbeddingUsage, encode
from shoal.api.openai.decode import parse
from shoal.api.openai.schema import EmbeddingBody
from shoal.api.plane import Plane
from shoal.errors import InvalidRequest
from shoal.messages import Infer
from shoal.types import Array, ModelName, RequestId, Tensors

_decoder = msgspec.json.Decoder(EmbeddingBody)


async def create(plane: Plane, exchange: Exchange) -> None:
    body = parse(_decoder, await exchange.read_body())
    texts = texts_of(body, exchange.limits)
    rows = np.array([[text.encode()] for text in texts], dtype=np.object_)
    request = Infer(RequestId(exchange.request_id), ModelName(body.model), {"text": rows})
    request = exchange.stamp(request)
    with exchange.client_watch():
        inferred = await plane.infer(request, timeout=exchange.timeout)
    size = sum(array.nbytes for array in inferred.outputs.values())
    await exchange.answer(200, await offload(size, answer_of, body, inferred.outputs, count=len(texts)))


def texts_of(body: EmbeddingBody, limits: ApiLimits) -> list[str]:
    """Raises :class:`InvalidRequest`."""
    given = [body.input] if isinstance(body.input, str) else body.input
    if len(given) > limits.inputs:
        raise InvalidRequest(f"input: at most {limits.inputs} texts", param="input")
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) != len(given):
        raise InvalidRequest("input: token numbers are not supported, send text", param="input")
    return texts


def answer_of(body: EmbeddingBody, outputs: Tensors, *, count: int) -> bytes:
    """``outputs``: ``embedding`` of shape (count, width), and ``tokens`` of shape (count,) where the model counts.
    Raises :class:`InvalidRequest` for a model that gives something else, or another width than was asked for."""
    vectors = outputs.get("embedding")
    if vectors is None or vectors.ndim != 2 or len(vectors) != count:
        raise InvalidRequest(f"{body.model} is not a model for embeddings", param="model")
    width = vectors.shape[1]
    if body.dimensions not in (None, width):
        raise InvalidRequest(f"dimensions: {body.model} has {width} and no other", param="dimensions")
    write = _base64 if body.encoding_format == "base64" else encode_numbers
    tokens = int(outputs["tokens"].sum()) if "tokens" in outputs else 0
    data = [Embedding(index=index, embedding=write(vector)) for index, vector in enumerate(vectors)]
    return encode(EmbeddingList(data=data, model=body.model, usage=EmbeddingUsage(tokens, tokens)))


def _base64(vector: Array) -> msgspec.Raw:
    return msgspec.Raw(b'"' + base64.b64encode(vector.astype("<f4").tobytes()) + b'"')
