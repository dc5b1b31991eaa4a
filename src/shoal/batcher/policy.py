"""Which requests run together, and when: decided from the queue and the time alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class BatchLimits:
    max_rows: int = 32  # of one run
    max_wait: float = 0.005  # seconds that an entry waits for company while the model is free
    max_queue_rows: int = 1024  # waiting


class Release(StrEnum):
    """Why a batch was let go."""

    FULL = "full"
    TIMEOUT = "timeout"


class Waiting(Protocol):
    """What the policy sees of an entry in the queue."""

    @property
    def rows(self) -> int: ...  # at most ``max_rows``

    @property
    def arrived(self) -> float: ...  # seconds

    @property
    def key(self) -> Hashable: ...  # equal for entries that may share a run


E = TypeVar("E", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Flush(Generic[E]):
    entries: list[E]
    reason: Release


@dataclass(frozen=True, slots=True)
class WaitUntil:
    time: float  # seconds; or until another entry arrives


@dataclass(slots=True)
class _Group(Generic[E]):
    """The oldest entries of one key, as many as fit."""

    entries: list[E] = field(default_factory=list)
    rows: int = 0
    full: bool = False

    def add(self, entry: E, max_rows: int) -> None:
        # Once one did not fit, a smaller one behind it does not overtake it.
        if self.full or self.rows + entry.rows > max_rows:
            self.full = True
            return
        self.entries.append(entry)
        self.rows += entry.rows
        self.full = self.rows == max_rows


def decide(queue: Iterable[E], now: float, limits: BatchLimits) -> Flush[E] | WaitUntil | None:
    """What a free model should do about a queue, oldest entry first; ``None`` when it is empty.

    Of the groups that are ready the one with the oldest entry goes first, so that none starves.
    """
    groups: dict[Hashable, _Group[E]] = {}
    for entry in queue:
        groups.setdefault(entry.key, _Group()).add(entry, limits.max_rows)
    due = [group.entries[0].arrived + limits.max_wait for group in groups.values()]
    for group, time in zip(groups.values(), due, strict=True):  # in the order of their oldest entries
        if group.full:
            return Flush(group.entries, Release.FULL)
        if now >= time:
            return Flush(group.entries, Release.TIMEOUT)
    return WaitUntil(min(due)) if due else None
