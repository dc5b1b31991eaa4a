"""What a load test writes down of each request, and of all."""

from __future__ import annotations

from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One request. Times are in seconds since the run began.

    An open load sends at times that do not depend on the answers, so latency counts from ``due``, when the request
    should have been sent: a server that stalls would otherwise hide the requests that its stall kept from being sent.
    """

    due: float
    sent: float
    ended: float
    outcome: str  # "ok", an HTTP status, or how the connection failed
    first: float | None = None  # when the first piece of a streamed answer came that brought something of it
    gaps: tuple[float, ...] = ()  # seconds between such pieces
    tokens: int = 0  # generated
    prompt_tokens: int = 0
    cached_tokens: int = 0
    message: str = ""  # what the server said, when it was no

    @property
    def latency(self) -> float:
        return self.ended - self.due

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A whole load test: what was asked, where, and what came."""

    scenario: str
    load: str  # in words
    url: str
    started: str  # ISO 8601
    duration: float  # seconds, without the warm-up
    machine: dict[str, Any]
    records: tuple[Record, ...]
    generator_busy: float = 0.0  # share of a core that the load generator used, which has one at most
