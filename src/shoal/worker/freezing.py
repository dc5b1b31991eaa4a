"""When the process of an engine counts as frozen: it is silent, answers no probe, and the system says it was stopped.

Silence alone proves nothing here. A native call may hold the interpreter for seconds, or the machine may give the
process no core: it is busy then, and would lose what it computes. One that was stopped computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal.cluster import Verdict, Vigil

HEARTBEAT = 0.5  # seconds between an engine process' reports, at most


class FreezeWatch:
    """Call :meth:`look` each :attr:`Patience.look <shoal.cluster.Patience>` seconds."""

    heartbeat = HEARTBEAT

    def __init__(self, *, probe: Callable[[], None], is_stopped: Callable[[], bool]) -> None:
        """``probe`` asks the process for a sign of life, ``is_stopped`` asks the system how it is."""
        self.sent = 0
        self.probed: float | None = None
        self._vigil = Vigil()
        self._probe = probe
        self._is_stopped = is_stopped
        self._frozen = False

    @property
    def pause(self) -> float:
        """Seconds between two looks."""
        return self._vigil.patience.look

    def look(self, sent: int, heard: float, now: float) -> bool:
        """Is it frozen? It has ``sent`` requests of ours, and last spoke at ``heard``; its first word thaws it."""
        self.sent = sent
        self._vigil.begin(now)
        verdict = self._vigil.judge(self, heard, now)
        if verdict is Verdict.PROBE:
            self._probe()
        if verdict in (Verdict.SUSPECT, Verdict.LOST):
            self._frozen = self._frozen or self._is_stopped()
        elif verdict is Verdict.FINE:
            self._frozen = False
        return self._frozen
