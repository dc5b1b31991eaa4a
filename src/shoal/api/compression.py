"""Bodies that travel compressed, by ``gzip`` or ``deflate``."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Final

from shoal.errors import InvalidRequest, PayloadTooLarge

#: How zlib is told which of the two formats it is.
WINDOWS: Final = {"gzip": 31, "deflate": 15}
#: No byte of a compressed body stands for more.
MAX_RATIO: Final = 1032
#: Answers below this many bytes gain nothing.
LEAST: Final = 1024
LEVEL: Final = 1  # tensors hardly shrink, and a higher level takes several times as long

_CHOICE = re.compile(r"^\s*(?P<name>[\w*-]+)\s*(;\s*q=(?P<weight>[0-9.]+))?\s*$", re.ASCII)


def inflate(body: bytes, encoding: str, *, limit: int) -> bytes:
    """``body`` as it was before the client compressed it. No more than ``limit`` bytes are ever made of it.

    Raises :class:`InvalidRequest` and :class:`PayloadTooLarge`.
    """
    inflater = zlib.decompressobj(wbits=_window(encoding))
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding}: {error}", param="content-encoding") from error
    if len(inflated) > limit:
        raise PayloadTooLarge(f"the request body is larger than {limit} bytes when it is inflated")
    if not inflater.eof:
        raise InvalidRequest(f"the {encoding} body ends too early", param="content-encoding")
    if inflater.unused_data:
        raise InvalidRequest(f"bytes follow the end of the {encoding} body", param="content-encoding")
    return inflated


def compress(pieces: Iterable[bytes | memoryview], encoding: str) -> bytes:
    compressor = zlib.compressobj(LEVEL, wbits=WINDOWS[encoding])
    made = [compressor.compress(piece) for piece in pieces]
    return b"".join([*made, compressor.flush()])


def accepted(header: str) -> str | None:
    """The encoding that ``accept-encoding`` permits, or None for a plain answer."""
    for choice in header.lower().split(","):
        found = _CHOICE.match(choice)
        if found and found["name"] in WINDOWS and found["weight"] not in ("0", "0.", "0.0", "0.00", "0.000"):
            return found["name"]
    return None


def _window(encoding: str) -> int:
    if encoding not in WINDOWS:
        known = " and ".join(WINDOWS)
        raise InvalidRequest(
            f"content-encoding '{encoding[:32]}' is not known; there are {known}", param="content-encoding"
        )
    return WINDOWS[encoding]
