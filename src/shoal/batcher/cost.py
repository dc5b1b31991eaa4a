"""What a run costs: ``fixed + per_row · rows`` seconds, fitted to the runs as they happen.

Recursive least squares, weighted for errors that are a share of the cost, not a span: a run of 100 ms may be 5 ms off,
one of 2 ms may not. Old runs are forgotten in the direction of the new one alone (L. Cao and H. Schwartz, "A
directional forgetting algorithm based on the decomposition of the information matrix", Automatica 36, 2000): a model
that runs batches of one size for hours does not forget what the others cost. A residual counts up to three times the
usual one (P. J. Huber, "Robust estimation of a location parameter", 1964), so that a run that was held up by something
else moves little; if runs stay slow the usual one grows, and the fit follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

REMEMBERED = 0.95  # share of the old that is kept at each run
USUAL_WEIGHT = 0.1  # of a new residual in the usual one
LONGEST_RESIDUAL = 3.0  # times the usual one
FIRST_RUNS = 8  # in which it is found out what a usual run is, and what a row costs
PRIOR = 0.01  # runs that the first guess weighs
LEAST_ERROR = 0.01  # share of the cost
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
        if left >= self.per_row * max_rows:
            return max_rows
        return max(1, int(left / self.per_row)) if left > 0 else 1

    def rows_for_fixed(self, share: float) -> float:
        """The rows from which on what is fixed is no more than that share of a run: ``inf`` where it is all."""
        if self.per_row == 0:
            return math.inf
        return max(1.0, self.fixed * (1 - share) / (share * self.per_row))


class CostFit:
    """Until runs of several sizes were seen, all of the cost counts as fixed: that is what company could save."""

    def __init__(self) -> None:
        self.cost: Cost | None = None
        self._runs = 0
        self._information = (PRIOR, 0.0, PRIOR)  # in runs, symmetric: of ``fixed``, mixed, of ``per_row``
        self._unit = 0.0  # seconds
        self._rows = 0.0  # of a usual run
        self._most = 0  # rows of one

    def observe(self, rows: int, seconds: float) -> None:
        """A run of ``rows`` took ``seconds``."""
        self._runs += 1
        if self._runs == 1:  # it allocates and compiles: it says nothing of the others
            return
        if self.cost is None:
            self.cost, self._rows = Cost(max(seconds, LEAST_SECONDS), 0.0, 1.0), float(rows)
            self._most = rows
            self._unit = self.cost.fixed
        known, scale = self.cost, self.cost.of(rows)
        residual = _clipped((seconds - scale) / scale, known.error, rows / self._most - 1)
        self._most = max(self._most, rows)
        self._rows += USUAL_WEIGHT * (rows - self._rows)
        usual = known.fixed + known.per_row * self._rows
        unit = self._unit_of_weight(usual)
        fixed, per_row = self._step((unit / scale, unit / scale * rows), unit * residual)
        error = max(LEAST_ERROR, known.error + USUAL_WEIGHT * (abs(residual) - known.error))
        self.cost = self._possible(known.fixed + fixed, known.per_row + per_row, max(usual / 2, LEAST_SECONDS), error)

    def _unit_of_weight(self, usual: float) -> float:
        """Runs are weighed by their share of the cost, and so that a usual run weighs the same however slow the model
        is. The first ones count alike: what is usual, and what it costs, is only found out."""
        if self._runs <= FIRST_RUNS:
            return self._unit
        if self._runs == FIRST_RUNS + 1:
            more = (usual / self._unit) ** 2
            a, b, c = self._information
            self._information = (more * a, more * b, more * c)
        return usual

    def _step(self, run: tuple[float, float], residual: float) -> tuple[float, float]:
        """Forget along ``run``, add it, and return the step of least squares."""
        x, y = run
        a, b, c = self._information
        u, v = a * x + b * y, b * x + c * y
        lost = (1 - REMEMBERED) / (u * x + v * y)
        a, b, c = a - lost * u * u + x * x, b - lost * u * v + x * y, c - lost * v * v + y * y
        self._information = (a, b, c)
        scale = residual / (a * c - b * b)
        return scale * (c * x - b * y), scale * (a * y - b * x)

    def _possible(self, fixed: float, per_row: float, least: float, error: float) -> Cost:
        """Neither part can be below zero: then the other one is what a usual run takes, ``least`` seconds or more."""
        usual = max(fixed + per_row * self._rows, least)
        if per_row < 0 or fixed + per_row * self._rows < least:
            return Cost(usual, 0.0, error)
        return Cost(fixed, per_row, error) if fixed >= 0 else Cost(0.0, usual / self._rows, error)


def _clipped(residual: float, error: float, by_rows: float) -> float:
    """``by_rows``: what more rows than ever can explain; it is not known what they cost."""
    limit = LONGEST_RESIDUAL * error
    return min(max(residual, -limit), max(limit, by_rows))
