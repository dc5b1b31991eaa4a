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
    """What is known of a peer's life."""

    def __init__(self, keepalive: Keepalive, now: float) -> None:
        self._keepalive = keepalive
        self._heard = now
        self._pinged: float | None = None

    def hear(self, now: float) -> None:
        """A sign of life: any bytes from the peer, or that it took bytes of ours."""
        self._heard = now
        self._pinged = None

    def check(self, now: float) -> tuple[Verdict, float]:
        """What to do now, and in how many seconds to ask again."""
        if self._pinged is not None:
            left = self._pinged + self._keepalive.timeout - now
            return (Verdict.WAIT, left) if left > 0 else (Verdict.LOST, 0.0)
        left = self._heard + self._keepalive.interval - now
        if left > 0:
            return Verdict.WAIT, left
        self._pinged = now
        return Verdict.PING, self._keepalive.timeout
