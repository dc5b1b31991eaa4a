"""When requests are sent: after one another, at random, or as a trace has it. Decided before anything runs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from shoal.errors import ConfigError

MAX_IN_FLIGHT = 4096  # requests of an open load; above it the machine that measures is the limit


@dataclass(frozen=True, slots=True)
class Closed:
    """So many clients, each with one request at a time: the load follows the server."""

    clients: int
    duration: float  # seconds

    def __str__(self) -> str:
        return f"{self.clients} clients, {self.duration:g} s"


@dataclass(frozen=True, slots=True)
class Open:
    """Requests that arrive by chance, whatever has become of the earlier ones: as users do."""

    rate: float  # a second
    duration: float  # seconds

    def __str__(self) -> str:
        return f"{self.rate:g} requests/s, {self.duration:g} s"

    def arrivals(self, chance: random.Random) -> Iterator[float]:
        """Seconds at which requests are due: a Poisson process."""
        at = chance.expovariate(self.rate)
        while at < self.duration:
            yield at
            at += chance.expovariate(self.rate)


@dataclass(frozen=True, slots=True)
class Replay:
    """Requests at the times of a trace, each with the sizes that it had."""

    items: tuple[TraceItem, ...]

    def __str__(self) -> str:
        return f"trace of {len(self.items)} requests, {self.duration:g} s"

    @property
    def duration(self) -> float:
        return self.items[-1].at if self.items else 0.0


class TraceItem(msgspec.Struct, frozen=True):
    """A line of a trace: JSON, one object a line."""

    at: float  # seconds since the trace began
    prompt_tokens: int | None = None
    max_tokens: int | None = None


Load = Closed | Open | Replay


def parse_trace(lines: Sequence[bytes]) -> Replay:
    """Raises :class:`ConfigError` that names the line."""
    items: list[TraceItem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            items.append(msgspec.json.decode(line, type=TraceItem))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"line {number} of the trace: {error}", param="trace") from error
        if items[-1].at < 0:
            raise ConfigError(f"line {number} of the trace: 'at' is below 0", param="trace")
    if not items:
        raise ConfigError("the trace is empty", param="trace")
    return Replay(tuple(sorted(items, key=lambda item: item.at)))
