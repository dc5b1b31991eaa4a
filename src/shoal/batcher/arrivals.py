"""Who may be expected, and how soon: a client that was just answered often asks again."""

from __future__ import annotations

import math

WEIGHT = 0.2  # of a new span in the average


class Arrivals:
    """Counts requests that were answered and have not been followed by another, and averages two spans: from answers
    to the first arrival behind them, and between arrivals. Where clients ask one after the other they come as a burst
    behind each run, and when as many have come as were answered, nobody else is expected.
    """

    def __init__(self, longest_span: float) -> None:
        """``longest_span`` in seconds: a longer pause says no more than this one."""
        self.expected = 0  # requests
        self.seen = -math.inf  # when one last came, or was answered
        self._longest_span = longest_span
        self._after_answers = self._after_arrival = math.inf  # seconds, averages
        self._answers_last = False  # was it answers that were seen last?

    @property
    def gap(self) -> float:
        """Seconds from what was seen last to the next arrival, as usual; ``inf`` when there was none yet."""
        return self._after_answers if self._answers_last else self._after_arrival

    @property
    def burst(self) -> float:
        """Seconds from what was seen last until all who are expected have come; ``inf`` when nobody is."""
        if not self.expected:
            return math.inf
        return self.gap + (self.expected - 1) * self._after_arrival if self.expected > 1 else self.gap

    def arrived(self, now: float) -> None:
        span = min(now - self.seen, self._longest_span)
        if self._answers_last:
            self._after_answers = _averaged(self._after_answers, span)
        elif self.seen > -math.inf:
            self._after_arrival = _averaged(self._after_arrival, span)
        self.expected = max(0, self.expected - 1)
        self.seen, self._answers_last = now, False

    def answered(self, requests: int, now: float) -> None:
        """A run has ended. Those of earlier runs who have not come back by now are not expected any more."""
        self.expected = requests
        self.seen, self._answers_last = now, True


def _averaged(average: float, span: float) -> float:
    return span if average == math.inf else average + WEIGHT * (span - average)
