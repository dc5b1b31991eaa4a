"""Requests to keys and answers to bytes: what the response cache compares and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import replace

from shoal.errors import ShoalError
from shoal.messages import Answer, Chunk, Generate, Infer, Inferred
from shoal.model_registry import ModelSpec
from shoal.types import Array, ModelId

MAX_KEY: Final = 2**20  # bytes; the inputs of a larger request are not kept

# What does not change an answer. Every other field is in the key, also one that is added later: that may cost a hit.
_MEANINGLESS: Final = {"request_id", "trace", "priority", "group"}
_IN_PREFIX: Final = {"model", "version"}


class _TooLarge(Exception):
    pass


def model_prefix(model: ModelId) -> bytes:
    """How the keys of all requests to one version of a model begin, and no others."""
    return msgspec.msgpack.encode(model)


def spec_prefix(spec: ModelSpec) -> bytes:
    """As :func:`model_prefix`, and what of the configuration changes answers: it may differ after a restart."""
    s = spec.settings
    build = (s.uri, s.inputs, s.outputs, s.quantized, s.preproc, s.postproc, s.shards)
    return model_prefix(spec.id) + blake2b(_encoder.encode(build), digest_size=16).digest()


def request_key(request: Generate | Infer, prefix: bytes) -> bytes | None:
    """All that can change the answer. None for what is too large, or cannot be sent at all.

    MessagePack marks its own ends, so different requests have different keys.
    """
    try:
        request = _in_order(request)
        fields = _generate_fields(request) if isinstance(request, Generate) else _infer_fields(request)
        key = prefix + _encoder.encode(fields)
    except (_TooLarge, TypeError, UnicodeEncodeError, OverflowError):
        return None
    return key if len(key) <= MAX_KEY else None


def _in_order(request: Generate | Infer) -> Generate | Infer:
    """The same request with its dictionaries sorted."""
    if isinstance(request, Infer):
        return request if len(request.inputs) < 2 else replace(request, inputs=dict(sorted(request.inputs.items())))
    bias = request.sampling.logit_bias
    if len(bias) < 2:
        return request
    return replace(request, sampling=replace(request.sampling, logit_bias=dict(sorted(bias.items()))))


def is_deterministic(request: Generate | Infer) -> bool:
    """Has it only one right answer? ``request`` is as the client sent it: a seed filled in later says nothing."""
    return isinstance(request, Infer) or request.sampling.temperature == 0 or request.sampling.seed is not None


def size_of(answer: Answer) -> int:
    """Bytes of a part of an answer in memory, about."""
    if isinstance(answer, Chunk):
        logprobs = sum(128 + 96 * len(token.top) for token in answer.logprobs)
        return 200 + len(answer.text) + 32 * len(answer.tokens) + logprobs
    if isinstance(answer, Inferred):
        return 300 + sum(map(_size_of_array, answer.outputs.values()))
    raise TypeError(f"a {type(answer).__name__} is no answer to a model's request")


def encode_answers(answers: Sequence[Answer]) -> bytes:
    return _encoder.encode(answers)


def decode_answers(value: bytes) -> list[Chunk | Inferred]:
    """Their tensors are read-only views. Raises :class:`ShoalError` for what another version has written otherwise."""
    try:
        return _decoder.decode(value)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise ShoalError(f"a kept answer cannot be read: {error}") from error


def _size_of_array(array: Array) -> int:
    if not array.dtype.hasobject:
        return array.nbytes + 100
    return 100 + sum(64 + len(element) for element in array.ravel().tolist())


def _encode_array(array: Any) -> Any:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"a {type(array).__name__} is in no message")
    dtype = array.dtype
    if not dtype.hasobject:
        if array.nbytes > MAX_KEY:
            raise _TooLarge
        return dtype.str, array.shape, array.tobytes()
    elements = array.ravel().tolist()
    if sum(map(len, elements)) > MAX_KEY:
        raise _TooLarge
    return "O", array.shape, elements


def _decode_array(_kind: type, encoded: Any) -> Array:
    dtype, shape, content = encoded
    if dtype != "O":
        return np.frombuffer(content, np.dtype(dtype)).reshape(shape)
    array = np.empty(len(content), dtype=np.object_)
    array[:] = content
    array.flags.writeable = False
    return array.reshape(shape)


def _fields(kind: type[msgspec.Struct]) -> attrgetter[tuple[Any, ...]]:
    return attrgetter(*(name for name in kind.__struct_fields__ if name not in _MEANINGLESS | _IN_PREFIX))


_generate_fields: Final = _fields(Generate)
_infer_fields: Final = _fields(Infer)
_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_decoder: Final = msgspec.msgpack.Decoder(list[Chunk | Inferred], dec_hook=_decode_array)
