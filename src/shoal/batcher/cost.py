"""What a run costs: ``fixed + per_row · rows`` seconds, fitted to the runs as they happen.

Recursive least squares, weighted for errors that are a share of the cost, not a span: a run of 100 ms may be 5 ms off,
one of 2 ms may not. Old runs are forgotten in the direction of the new one alone (L. Cao and H. Schwartz, "A directional
forgetting algorithm based on the decomposition of the information matrix", Automatica 36, 2000): a model that runs
batches of one size for hours does not forget what the others cost. A residual counts up to three times the usual one
(P. J. Huber, "Robust estimation of a location parameter", 1964), so that a run that was held up by something else moves
little; if runs stay slow the usual one grows, and the fit follows.
"""

from __future__ import annotations

from dataclasses import dataclass

REMEMBERED = 0.95  # share of the old that is kept at each run
USUAL_WEIGHT = 0.1  # of a new residual in the usual one
LONGEST_RESIDUAL = 3.0  # times the usual one
LEAST_USUAL = 0.01  # share of the cost
LEAST_SECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds; ``error`` is the usual residual, as a share of the cost."""

    fixed: float
    per_row: float
    error: float = 0.0

    def of(self, rows: int) -> float:
        return self.fixed + self.per_row * rows

    def rows_within(self, seconds: float, max_rows: int) -> int:
        """The largest run that takes no longer, with twice the usual error to spare: 1 to ``max_rows``."""
        left = seconds / (1 + 2 * self.error) - self.fixed
        if self.per_row * max_rows <= left:
            return max_rows
        return max(1, int(left / self.per_row)) if self.per_row > 0 else 1


class CostFit:
    """Until runs of several sizes were seen, all of the cost counts as fixed: that is what company could save."""

    def __init__(self) -> None:
        self.cost: Cost | None = None
        self._fixed = self._per_row = 0.0  # as fitted, of any sign
        self._information = (0.0, 0.0, 0.0)  # symmetric: both of ``fixed``, mixed, both of ``per_row``
        self._usual = 1.0
        self._rows = 0.0  # of a usual run

    def observe(self, rows: int, seconds: float) -> None:
        """A run of ``rows`` took ``seconds``."""
        if self.cost is None:
            self._fixed, self._rows = seconds, float(rows)
            weight = 1 / max(seconds, LEAST_SECONDS) ** 2
            self._information = (weight, 0.0, weight)
        self._rows += USUAL_WEIGHT * (rows - self._rows)
        predicted = self._fixed + self._per_row * rows
        scale = max(predicted, LEAST_SECONDS)
        self._learn((1 / scale, rows / scale), self._clipped((seconds - predicted) / scale))
        self.cost = self._as_cost()

    def _clipped(self, residual: float) -> float:
        limit = LONGEST_RESIDUAL * self._usual
        clipped = min(max(residual, -limit), limit)
        self._usual = max(LEAST_USUAL, self._usual + USUAL_WEIGHT * (abs(clipped) - self._usual))
        return clipped

    def _learn(self, run: tuple[float, float], residual: float) -> None:
        """Forget along ``run``, add it, and go the step of least squares."""
        x, y = run
        a, b, c = self._information
        u, v = a * x + b * y, b * x + c * y
        lost = (1 - REMEMBERED) / (u * x + v * y)
        a, b, c = a - lost * u * u + x * x, b - lost * u * v + x * y, c - lost * v * v + y * y
        determinant = a * c - b * b
        self._information = (a, b, c)
        self._fixed += residual * (c * x - b * y) / determinant
        self._per_row += residual * (a * y - b * x) / determinant

    def _as_cost(self) -> Cost:
        """Neither part can be below zero; then the other one is what a usual run has shown."""
        usual = max(self._fixed + self._per_row * self._rows, LEAST_SECONDS)
        if self._per_row < 0:
            return Cost(usual, 0.0, self._usual)
        if self._fixed < 0:
            return Cost(0.0, usual / self._rows, self._usual)
        return Cost(self._fixed, self._per_row, self._usual)
