"""Who takes part in a contest, and what a run of it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

SERVERS: Final = Path(__file__).parent / "servers"  # what runs in the environments of the rivals


@dataclass(frozen=True)
class Place:
    """Where a server is to run."""

    python: Path  # of its environment
    folder: Path  # empty, and its own
    port: int  # on loopback; the next four are free too
    cores: int  # as many threads may compute
    clients: int  # that will ask at a time

    @property
    def bin(self) -> Path:
        return self.python.parent


@dataclass(frozen=True, kw_only=True)
class Server:
    """One that is asked over HTTP."""

    name: str
    command: Callable[[Place], Sequence[str]]  # may write what it needs into the place's folder
    path: str  # that questions are posted to
    ask: Callable[[Any], Any] = lambda question: question  # -> the JSON of its request
    read: Callable[[Any], Any] = lambda answer: answer  # the JSON of an answer -> what was asked for
    packages: tuple[str, ...] = ()  # pinned; none: it runs in Shoal's own environment
    finish: Callable[[Path], Sequence[Sequence[str]]] = lambda python: ()  # commands after the installation
    variables: Mapping[str, str] = field(default_factory=dict)
    needs_isolation: bool = False  # it listens on addresses that others can reach


@dataclass(frozen=True)
class Loop:
    """No server: the bare engine in a loop, with so many threads and questions at a time."""

    name: str
    run: Callable[[int, int], Figures]
    packages: tuple[str, ...] = ()


Entrant = Server | Loop


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run. Times in seconds."""

    rate: float  # a second, of what the contest counts
    p50: float | None = None
    p99: float | None = None
    first_p50: float | None = None  # to the first token
    cores: float | None = None  # that the server kept busy
    memory_bytes: int | None = None


class Wrong(Exception):
    """A server that answers, but not what was asked."""
