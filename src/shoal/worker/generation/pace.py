"""How long a prompt takes the engine at least, by what its steps took before."""

from __future__ import annotations

BEGINNING = 3  # steps, of which the first of a process are slow
FALL = 0.05  # how far one slower step lowers the rate: a hiccup is no reason to refuse anybody


class Pace:
    """The best rate lately: it rises at once and falls slowly, so that what it says is too little rather than too much.
    Steps of few tokens say nothing of it, since they cost as much as somewhat longer ones."""

    def __init__(self, least: int) -> None:
        """``least``: tokens of prompts in a step that says something."""
        self._least = least
        self._rate = 0.0  # tokens a second
        self._steps = 0

    def observe(self, tokens: int, seconds: float) -> None:
        """A step with so many tokens of prompts took so long."""
        if tokens < self._least or seconds <= 0:
            return
        self._steps += 1
        rate = tokens / seconds
        self._rate = rate if rate > self._rate else self._rate + FALL * (rate - self._rate)

    def seconds(self, tokens: int) -> float:
        """For a prompt of so many, if it has the engine for itself; 0 as long as nothing is known."""
        return tokens / self._rate if self._steps >= BEGINNING else 0.0
