"""Which requests run together, and when: decided from the queue, what is known of the model, and the time."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from shoal.batcher.cost import Cost

PROMOTION = 1.0  # seconds of waiting that count as much as one step of priority
MAX_PRIORITY = 10  # of either sign; beyond it counts as this
WORTH_WAITING = 0.5  # of a run's fixed cost: time within which all who are expected have to come
PATIENCE = 8.0  # times the usual gap; who is later than that is not waited for
SMALL_FIXED = 0.2  # of a run that begins beside another: what its fixed cost may be, which the two could have shared
FRESH = 1.0  # seconds for which the last run tells what the next one costs


@dataclass(frozen=True, slots=True)
class BatchLimits:
    max_rows: int = 32  # of one run
    max_wait: float = 0.005  # seconds that an entry waits for company while the model is free
    max_queue_rows: int = 4096  # waiting
    target_latency: float | None = None  # seconds from arrival to answer; None: runs as large as max_rows


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of the model and of who asks. Times in seconds."""

    cost: Cost | None = None  # of a run; None: not known yet
    free_since: float = -math.inf  # when the last run ended
    seen: float = -math.inf  # when a client last came, or was answered
    gap: float = math.inf  # from then until the next one comes, as usual
    burst: float = math.inf  # from then until all have come who should ask again; nobody should: infinite
    runs_at_once: int = 1  # that the model can make


@dataclass(frozen=True, slots=True)
class Running:
    """Runs that have not ended."""

    rows: int
    share_done: float  # seconds: when the last to begin has done half of its work, if two run at once


class Release(StrEnum):
    """Why a batch was let go."""

    FULL = "full"
    ADAPTIVE = "adaptive"  # as large as the latency target allows
    TIMEOUT = "timeout"  # one of its entries had waited as long as any may
    IDLE = "idle"  # the model was free, and nobody worth waiting for was expected
    BESIDE = "beside"  # another one runs, and this one is large enough to begin beside it
    RETRY = "retry"  # part of a batch that failed


class Waiting(Protocol):
    """What the policy sees of an entry in the queue."""

    @property
    def rows(self) -> int: ...  # at most ``max_rows``

    @property
    def arrived(self) -> float: ...  # seconds

    @property
    def key(self) -> Hashable: ...  # equal for entries that may share a run

    @property
    def deadline(self) -> float | None: ...  # seconds


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
    """The first entries of one key, as many as fit."""

    entries: list[E] = field(default_factory=list)
    rows: int = 0
    full: bool = False
    oldest: float = math.inf  # arrival, of all entries of the key

    def add(self, entry: E, max_rows: int) -> None:
        self.oldest = min(self.oldest, entry.arrived)
        # Once one did not fit, a smaller one behind it does not overtake it. The first one always fits.
        if self.full or (self.entries and self.rows + entry.rows > max_rows):
            self.full = True
            return
        self.entries.append(entry)
        self.rows += entry.rows
        self.full = self.rows >= max_rows


def rank(priority: int, arrived: float) -> float:
    """The place in the queue, lowest first: a step of priority counts as :data:`PROMOTION` seconds of waiting.

    So an entry is overtaken by those alone that arrive within ``2 · MAX_PRIORITY · PROMOTION`` seconds.
    """
    return arrived - PROMOTION * min(max(priority, -MAX_PRIORITY), MAX_PRIORITY)


def is_too_late(entry: Waiting, now: float, outlook: Outlook) -> bool:
    """Would its deadline pass before a run that began now could end? Then computing it helps nobody.

    What runs cost is taken at its least, and believed while a run has just ended: a model that has been idle shows by
    running whether it is as slow as it was."""
    if entry.deadline is None:
        return False
    cost, least = outlook.cost, 0.0
    if cost is not None and now - outlook.free_since < FRESH:
        least = cost.of(entry.rows) * max(0.0, 1 - cost.error)
    return entry.deadline <= now + least


def rows_allowed(limits: BatchLimits, cost: Cost | None) -> int:
    """Of one run. A request that just missed a run waits for that one and then has its own: each may take half of
    the target. It does not shrink when the queue is long, since small runs would make it longer still."""
    if limits.target_latency is None:
        return limits.max_rows
    return 1 if cost is None else cost.rows_within(limits.target_latency / 2, limits.max_rows)


@dataclass(frozen=True, slots=True)
class RunSize:
    """Rows of one run."""

    most: int
    least_beside: int | None = None  # of one that begins while another runs; None: none does


def run_size(limits: BatchLimits, outlook: Outlook) -> RunSize:
    """Runs at once, and the next one that gathers meanwhile, share the rows that one run may have: nobody waits longer
    for his turn, and the engine always has work, while the answers of one run go out and the next requests come in.
    They pay where little of what each costs is fixed."""
    most = rows_allowed(limits, outlook.cost)
    if outlook.runs_at_once > 1 and outlook.cost is not None:
        least, each = outlook.cost.rows_for_fixed(SMALL_FIXED), most // (outlook.runs_at_once + 1)
        if least <= each:
            return RunSize(each, math.ceil(least))
    return RunSize(most)


def decide(
    queue: Iterable[E],
    now: float,
    limits: BatchLimits,
    outlook: Outlook = Outlook(),
) -> Flush[E] | WaitUntil | None:
    """What a free model should do about a queue in the order of its ranks; ``None`` when it is empty.

    Of the groups that are ready the one whose first entry has the lowest rank goes first.
    """
    max_rows = run_size(limits, outlook).most
    wait = math.inf
    groups = _grouped(queue, max_rows)
    for group in groups:
        if group.full:
            return Flush(group.entries, _why_full(limits, outlook))
        if now >= (latest := _latest_release(group, limits, outlook)):
            return Flush(group.entries, Release.TIMEOUT)
        if now >= (expected := _company_expected_until(group, outlook)):
            return Flush(group.entries, Release.IDLE)
        wait = min(wait, latest, expected)
    return WaitUntil(wait) if groups else None


def decide_beside(
    queue: Iterable[E], now: float, running: Running, limits: BatchLimits, outlook: Outlook
) -> Flush[E] | WaitUntil | None:
    """What to begin beside what runs. Two runs that begin together would end together, and leave nothing to compute
    again: the second waits until the first one is half done. Only whose turn it is: who is overtaken might never have
    one."""
    size = run_size(limits, outlook)
    if size.least_beside is None or not (groups := _grouped(queue, size.most)):
        return None
    first = groups[0]
    if not size.least_beside <= first.rows <= rows_allowed(limits, outlook.cost) - running.rows:
        return None
    if now < running.share_done:
        return WaitUntil(running.share_done)
    return Flush(first.entries, _why_full(limits, outlook) if first.full else Release.BESIDE)


def _grouped(queue: Iterable[E], max_rows: int) -> list[_Group[E]]:
    """In the order of their first entries."""
    groups: dict[Hashable, _Group[E]] = {}
    for entry in queue:
        groups.setdefault(entry.key, _Group()).add(entry, max_rows)
    return list(groups.values())


def _why_full(limits: BatchLimits, outlook: Outlook) -> Release:
    return Release.FULL if rows_allowed(limits, outlook.cost) == limits.max_rows else Release.ADAPTIVE


def _latest_release(group: _Group[E], limits: BatchLimits, outlook: Outlook) -> float:
    """Waiting for a run to end is not waiting for company, so that counts from there."""
    latest = max(group.oldest, outlook.free_since) + limits.max_wait
    if limits.target_latency is None or outlook.cost is None:
        return latest
    return min(latest, group.oldest + limits.target_latency - outlook.cost.of(group.rows))


def _company_expected_until(group: _Group[E], outlook: Outlook) -> float:
    """The time until which waiting pays, ``-inf`` if it does not.

    Clients that ask again as soon as they are answered, and are served in two runs that take turns, sit through the
    fixed cost of both, time and again; once they are together, through one. So waiting pays if all who are expected
    come well within the fixed cost, whatever a row costs, and no wait may be longer than that. Where requests come as
    they like, as many come during a run as are answered by it, which takes longer than its fixed cost: then nobody
    waits.
    """
    if outlook.cost is None or outlook.burst >= WORTH_WAITING * outlook.cost.fixed:
        return -math.inf
    return min(outlook.seen + PATIENCE * outlook.gap, max(group.oldest, outlook.free_since) + outlook.cost.fixed)
