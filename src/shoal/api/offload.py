"""Work on large bodies is done in a thread, so that the event loop keeps serving the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import msgspec

from shoal.types import Array

P = ParamSpec("P")
T = TypeVar("T")

HEAVY = 128 * 2**10  # bytes: 32k numbers of FP32 are written as JSON in 4 ms
SLICE = 8192  # numbers: less than a millisecond, after which another thread may have its turn

_encode = msgspec.json.Encoder().encode


async def offload(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function`` at once for less than ``HEAVY`` bytes, else in a thread. It must let go of the interpreter's lock
    now and then: one long call into C would stop the event loop all the same."""
    if size < HEAVY:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def encode_numbers(array: Array) -> msgspec.Raw:
    """The flat JSON list of an array, made slice by slice. What is not finite becomes null: JSON has no such number."""
    flat = array.reshape(-1)
    if flat.size <= SLICE:
        return msgspec.Raw(_encode(flat.tolist()))
    slices = (_encode(flat[at : at + SLICE].tolist())[1:-1] for at in range(0, flat.size, SLICE))
    return msgspec.Raw(b"[" + b",".join(slices) + b"]")
