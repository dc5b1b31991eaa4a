"""When to ask a silent peer whether it is there, and when to give it up. No timers here: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Keepalive:
    """After ``interval`` seconds of silence a ping; after ``timeout`` more the peer is lost.

    TCP itself notices a vanished host after some fifteen minutes. Ten seconds are shorter than the idle limits of
    NATs and load balancers (60 s and more) and longer than a pause of Python's collector or a live migration. The
    fleet's heartbeats notice trouble sooner; this is the net under every connection.
    """

    interval: float = 5.0  # seconds
    timeout: float = 5.0  # seconds


class Verdict(Enum):
    WAIT = auto()
    PING = auto()
    LOST = auto()


class Pulse:
    """What is asked of a peer to know whether it lives."""

    def __init__(self, keepalive: Keepalive) -> None:
        self._keepalive = keepalive
        self._pinged: float | None = None

    def check(self, heard: float, now: float) -> tuple[Verdict, float]:
        """What to do now, and in how many seconds to ask again. ``heard`` is when it last gave a sign of life: any
        bytes of its, or that it took bytes of ours."""
        if self._pinged is not None and heard < self._pinged:
            left = self._pinged + self._keepalive.timeout - now
            return (Verdict.WAIT, left) if left > 0 else (Verdict.LOST, 0.0)
        self._pinged = None
        left = heard + self._keepalive.interval - now
        if left > 0:
            return Verdict.WAIT, left
        self._pinged = now
        return Verdict.PING, self._keepalive.timeout
