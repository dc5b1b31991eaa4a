"""An answer that is made apart from its client, who may go and come back for it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Generic, TypeVar

from shoal.coordinator.live_log import LiveLog
from shoal.errors import ShoalError

D = TypeVar("D")


class KeptAnswer(Generic[D]):
    """Its parts so far, and what leads to it.

    ``scope`` says whose it is: nobody else finds it; ``tenant`` whose share of the room it takes. ``id`` is not to be
    guessed. ``named``: the client knows the id. ``key`` is of idempotency, empty for none, and ``digest`` tells its
    request from others.
    """

    def __init__(
        self,
        scope: str,
        size_of: Callable[[D], int],
        *,
        tenant: str = "",
        name: str = "",
        key: str = "",
        digest: bytes = b"",
    ) -> None:
        self.scope = scope
        self.tenant = tenant
        self.id = name or secrets.token_hex(16)
        self.named = bool(name)
        self.key = key
        self.digest = digest
        self.parts = LiveLog(size_of)
        self.error: ShoalError | None = None  # what ended it in place of its last part
        self.readers: dict[object, int] = {}  # the number of the part that each has read last
        self.expires: float | None = None  # on the loop's clock
        self.task: asyncio.Task[bool] | None = None  # what makes it; true: it came to its own end
        self.grace: asyncio.TimerHandle | None = None  # runs while it has no reader

    @property
    def size(self) -> int:
        """Bytes of what is kept of it."""
        return self.parts.log.bytes_used

    @property
    def ended(self) -> bool:
        return self.parts.log.closed

    @property
    def can_be_asked_for(self) -> bool:
        return self.named or bool(self.key)

    def __repr__(self) -> str:
        return f"<KeptAnswer of {self.parts.log.last} parts, {len(self.readers)} readers>"
