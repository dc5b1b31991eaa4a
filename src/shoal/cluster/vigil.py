"""Who is silent, and what that means: ask it, use it no more for now, or give it up.

A worker that is frozen, or cut off without a word, keeps its connection, and shows by its silence alone. A busy worker
may be slow to answer requests, but a probe is answered by its event loop, which waits for no engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. With heartbeats each half second a worker that has requests of ours is suspected 0.7 s after its last
    word at most, one that has nothing to do 0.95 s after it."""

    look: float = 0.05  # between two looks at everyone
    busy: float = 0.25  # silence of a worker that has requests of ours, until it is probed
    late: float = 0.1  # that a heartbeat may be overdue, until an idle worker is probed
    answer: float = 0.25  # for the answer to a probe, until it is suspected
    lost: float = 2.5  # after the probe, until a suspect's connection is closed
    own_pause: float = 0.2  # between two looks at least, to say that it was this process that slept


class Verdict(Enum):
    FINE = auto()
    PROBE = auto()
    WAIT = auto()  # for the answer to a probe
    SUSPECT = auto()  # out of rotation; the first word brings it back
    LOST = auto()


class Watched(Protocol):
    """What a vigil needs to know of a worker. It keeps ``probed`` itself."""

    heartbeat: float  # seconds between its reports at most
    sent: int  # requests of ours that it has
    probed: float | None  # when it was asked for a sign of life; None: not since its last word


class Vigil:
    """Call :meth:`begin` each :attr:`Patience.look` seconds, then :meth:`judge` for each worker."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self._looked: float | None = None
        self._awake_since = float("-inf")

    def begin(self, now: float) -> None:
        """When this process itself slept, what the others said meanwhile has not been read yet."""
        if self._looked is not None and now - self._looked > self.patience.own_pause:
            self._awake_since = now
        self._looked = now

    def is_silent(self, worker: Watched, heard: float, now: float) -> bool:
        """Has nothing come from it for so long that a living worker would have been heard?"""
        return now - heard > worker.heartbeat + self.patience.late + self.patience.answer

    def judge(self, worker: Watched, heard: float, now: float) -> Verdict:
        """``heard``: when anything last came from it."""
        patience = self.patience
        heard = max(heard, self._awake_since)
        quiet = patience.busy if worker.sent else worker.heartbeat + patience.late
        if now - heard <= quiet:
            worker.probed = None
            return Verdict.FINE
        if worker.probed is None or worker.probed < heard:
            worker.probed = now
            return Verdict.PROBE
        # The answer may be on a long way, or behind a long frame, while heartbeats still come.
        overdue = now - heard > worker.heartbeat + patience.late
        if not overdue or now - worker.probed <= patience.answer:
            return Verdict.WAIT
        return Verdict.SUSPECT if now - worker.probed <= patience.lost else Verdict.LOST
