"""POST /v2/models/{model}[/versions/{version}]/infer."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from typing import Final

import msgspec

from shoal.api.asgi import JSON, MAX_PRIORITY, Exchange, Header
from shoal.api.compression import LEAST, MAX_RATIO, accepted, compress, inflate
from shoal.api.offload import HEAVY, offload
from shoal.api.open_inference.inputs import read_alone, read_inputs
from shoal.api.open_inference.outputs import Wanted, write_outputs
from shoal.api.open_inference.schema import InferBody, RequestParameters
from shoal.api.openai.decode import parse
from shoal.api.plane import ModelSpec, Plane
from shoal.errors import InvalidRequest, PayloadTooLarge
from shoal.messages import Infer
from shoal.types import Array, RequestId

HEADER_LENGTH: Final = b"inference-header-content-length"
MEDIA: Final = b"application/octet-stream"
ALIGNMENT: Final = 8  # bytes: of the widest number
MAX_KEY: Final = 256  # characters
NO_BYTES: Final = memoryview(b"")

_DIGITS = re.compile(rb"[0-9]{1,15}")
_decoder = msgspec.json.Decoder(InferBody)


async def infer(plane: Plane, exchange: Exchange) -> None:
    version = exchange.parameters.get("version")
    model = plane.find(exchange.parameters["model"], version, key=exchange.request_id)
    body, binary, python_bytes = await _read(exchange)
    wanted = Wanted.of(body, model.outputs)
    if not body.inputs:
        inputs = await offload(python_bytes, read_alone, model.inputs, binary, exchange.limits)
    elif python_bytes < HEAVY:
        inputs = read_inputs(body.inputs, binary, exchange.limits)
    else:
        inputs = await offload(python_bytes, read_inputs, body.inputs, binary, exchange.limits)
    call = Infer(
        RequestId(exchange.request_id),
        model.name,
        inputs,
        version=model.version,
        tenant=exchange.tenant,
        priority=_priority(exchange, body.parameters),
        trace=exchange.trace,
        key=_key(exchange),
    )
    with exchange.client_watch():
        inferred = await plane.infer(call, timeout=_timeout(exchange, body.parameters))
    await _answer(exchange, model, body.id, wanted.choose(inferred.outputs))


# -- the request


async def _read(exchange: Exchange) -> tuple[InferBody, memoryview, int]:
    """What the JSON says, the bytes behind it, and how many bytes become Python objects one by one.

    Without JSON, as Triton has it too, there are no inputs in it: all bytes are the model's only one.
    """
    given = exchange.header(HEADER_LENGTH)
    if given is None:
        body = await _plain_body(exchange)
        return _parse(exchange, body), NO_BYTES, len(body)
    name = _name(HEADER_LENGTH)
    if not _DIGITS.fullmatch(given):
        raise InvalidRequest(f"{name} must be a number of bytes", param=name)
    size = int(given)
    lead = -size % ALIGNMENT  # so that the tensors begin where numbers may
    whole = memoryview(await _plain_body(exchange, lead))[lead:]
    if size > len(whole):
        raise InvalidRequest(f"{name} is {size}, but the body has {len(whole)} bytes", param=name)
    if size == 0:
        return InferBody(inputs=[]), whole, len(whole)
    header = _parse(exchange, whole[:size])
    texts = sum(_declared(tensor.parameters) for tensor in header.inputs if tensor.datatype == "BYTES")
    return header, whole[size:], size + texts


def _parse(exchange: Exchange, header: bytes | memoryview) -> InferBody:
    if len(header) > (most := exchange.limits.body_bytes):
        raise PayloadTooLarge(f"the JSON of a request may have {most} bytes: send tensors as binary data behind it")
    return parse(_decoder, header)


def _plain_body(exchange: Exchange, lead: int = 0) -> Awaitable[bytes]:
    """The body, inflated where it came compressed, behind ``lead`` zero bytes."""
    limit = exchange.limits.tensor_bytes
    given = exchange.header(b"content-encoding")
    encoding = "identity" if given is None else given.decode("latin-1").strip().lower()
    if encoding == "identity":
        return exchange.read_body(limit=limit, lead=lead)
    return _inflated_body(exchange, encoding, limit, lead)


async def _inflated_body(exchange: Exchange, encoding: str, limit: int, lead: int) -> bytes:
    body = await exchange.read_body(limit=limit)
    most = min(limit, len(body) * MAX_RATIO)
    exchange.hold(most)
    inflated = await offload(most, inflate, body, encoding, limit=limit)
    exchange.hold(len(inflated) - most)
    return bytes(lead) + inflated


def _declared(parameters: object) -> int:
    return getattr(parameters, "binary_data_size", None) or 0


def _key(exchange: Exchange) -> str:
    given = exchange.header(b"x-shard-key")
    if given is None:
        return ""
    try:
        key = given.decode()  # as native clients send it, so that both lead to the same shard
    except UnicodeDecodeError as error:
        raise InvalidRequest("x-shard-key must be UTF-8", param="x-shard-key") from error
    if len(key) > MAX_KEY:
        raise InvalidRequest(f"x-shard-key may have {MAX_KEY} characters", param="x-shard-key")
    return key


def _priority(exchange: Exchange, parameters: RequestParameters | None) -> int:
    """Triton counts from 1, the most urgent, upwards, and 0 says nothing."""
    priority = exchange.priority
    if parameters is None:
        return priority
    if parameters.sequence_id:
        raise InvalidRequest("sequence_id is not supported: every request stands alone", param="parameters.sequence_id")
    return MAX_PRIORITY + 1 - parameters.priority if parameters.priority else priority


def _timeout(exchange: Exchange, parameters: RequestParameters | None) -> float | None:
    """Seconds: what the header gives and what the parameter gives, whichever is less."""
    timeout = exchange.timeout
    if parameters is None or not parameters.timeout:
        return timeout
    seconds = min(parameters.timeout / 1e6, exchange.limits.deadline)
    return seconds if timeout is None else min(seconds, timeout)


# -- the answer


async def _answer(
    exchange: Exchange, model: ModelSpec, request_id: str | None, chosen: Sequence[tuple[str, Array, bool]]
) -> None:
    python_bytes = 0
    for _, array, binary in chosen:
        if not binary or array.dtype.hasobject:
            python_bytes += array.nbytes
    if python_bytes < HEAVY:
        header, pieces = write_outputs(chosen, model.name, model.version, request_id)
    else:
        header, pieces = await offload(python_bytes, write_outputs, chosen, model.name, model.version, request_id)
    if not pieces and len(header) < LEAST:
        await exchange.answer(200, header)
        return
    headers: list[Header] = [(HEADER_LENGTH, str(len(header)).encode())] if pieces else []
    media = MEDIA if pieces else JSON
    size = len(header) + sum(piece.nbytes for piece in pieces)
    encoding = None if size < LEAST else accepted((exchange.header(b"accept-encoding") or b"").decode("latin-1"))
    if encoding is None:
        await exchange.answer(200, header, rest=pieces, content_type=media, headers=headers)
        return
    body = await offload(size, compress, [header, *pieces], encoding)
    headers.append((b"content-encoding", encoding.encode()))
    await exchange.answer(200, body, content_type=media, headers=headers)


def _name(header: bytes) -> str:
    return header.decode()
