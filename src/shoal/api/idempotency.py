"""Who asks, and the key that makes a repeated request the same one."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from shoal.api.asgi import Exchange
from shoal.errors import InvalidRequest

IDEMPOTENCY_KEY: Final = b"idempotency-key"

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


def scope_of(exchange: Exchange) -> str:
    """The same for requests with the same credentials, and for no others. Nothing can be read from it.

    Raises :class:`Forbidden` for a tenant that no trusted proxy named."""
    given = (exchange.header(b"authorization") or b"", exchange.tenant.encode())
    return hashlib.sha256(b"\0".join(given)).hexdigest()


def key_of(exchange: Exchange) -> str:
    """The request's key, which means nothing to anybody else; empty without one. Raises :class:`InvalidRequest`."""
    key = exchange.header(IDEMPOTENCY_KEY)
    if key is None:
        return ""
    if not _KEY.fullmatch(key):
        raise InvalidRequest("idempotency-key has 1 to 255 printable characters and no spaces", param="idempotency-key")
    return f"{scope_of(exchange)} {key.decode()}"
