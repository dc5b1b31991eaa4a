from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.batcher.cost import Cost, CostFit

SIZES = (1, 2, 4, 8, 16, 32)


def fitted(
    fixed: float,
    per_row: float,
    *,
    sizes: tuple[int, ...] = SIZES,
    runs: int = 200,
    noise: float = 0.0,
    held_up: float = 0.0,
    fit: CostFit | None = None,
    seed: int = 0,
) -> Cost:
    """After runs of random sizes; a share of them is ``held_up`` and takes ten times as long."""
    draw, fit = random.Random(seed), fit or CostFit()
    for _ in range(runs):
        rows = draw.choice(sizes)
        seconds = (fixed + per_row * rows) * (1 + draw.uniform(-noise, noise))
        fit.observe(rows, seconds * (10 if draw.random() < held_up else 1))
    assert fit.cost is not None
    return fit.cost


def test_the_first_run_warms_up_and_says_nothing() -> None:
    fit, known = CostFit(), []
    for seconds in (60.0, 0.5):
        known.append(fit.cost)
        fit.observe(1, seconds)
    assert known == [None, None]
    assert fit.cost == Cost(fixed=0.5, per_row=0.0, error=0.9)


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-4, 1), st.floats(1e-5, 1), st.integers(0, 1000))
def test_it_converges_to_what_runs_cost(fixed: float, per_row: float, seed: int) -> None:
    cost = fitted(fixed, per_row, noise=0.05, seed=seed)
    for rows in SIZES:
        assert cost.of(rows) == pytest.approx(fixed + per_row * rows, rel=0.15)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000))
def test_runs_that_were_held_up_move_it_little(seed: int) -> None:
    cost = fitted(0.003, 0.001, noise=0.05, held_up=0.05, seed=seed)
    for rows in (8, 16, 32):
        assert cost.of(rows) == pytest.approx(0.003 + 0.001 * rows, rel=0.3)


def test_a_model_that_gets_slower_is_followed() -> None:
    fit = CostFit()
    fitted(0.003, 0.001, noise=0.05, fit=fit)
    assert fitted(0.009, 0.003, noise=0.05, fit=fit).of(16) == pytest.approx(0.057, rel=0.1)


def test_a_thousand_runs_of_one_size_do_not_make_it_forget_the_others() -> None:
    fit = CostFit()
    fitted(0.003, 0.001, noise=0.02, fit=fit)
    cost = fitted(0.003, 0.001, noise=0.02, sizes=(16,), runs=1000, fit=fit)
    assert cost.of(1) == pytest.approx(0.004, rel=0.15)
    assert cost.of(32) == pytest.approx(0.035, rel=0.15)


def test_a_few_small_runs_tell_what_a_row_costs_when_the_rest_are_large() -> None:
    fit = CostFit()
    for rows in (1, 1, 1, 31, 1, *[16] * 50):
        fit.observe(rows, 0.003 + 0.004 * rows)
    assert fit.cost is not None
    assert fit.cost.fixed == pytest.approx(0.003, rel=0.05)
    assert fit.cost.per_row == pytest.approx(0.004, rel=0.05)


def test_until_sizes_differ_all_of_the_cost_counts_as_fixed() -> None:
    cost = fitted(0.003, 0.001, sizes=(4,))
    assert cost.fixed == pytest.approx(0.007, rel=0.01)
    assert cost.per_row == pytest.approx(0.0, abs=1e-5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 100)), min_size=1, max_size=60))
def test_whatever_it_sees_neither_part_is_negative_and_a_size_can_be_chosen(runs: list[tuple[int, float]]) -> None:
    fit = CostFit()
    for rows, seconds in runs:
        fit.observe(rows, seconds)
    if fit.cost is not None:
        assert fit.cost.fixed >= 0
        assert fit.cost.per_row >= 0
        assert 1 <= fit.cost.rows_within(0.5, 32) <= 32


def test_from_so_many_rows_on_the_fixed_cost_is_a_small_share() -> None:
    cost = Cost(fixed=3.0, per_row=1.0)
    rows = cost.rows_for_fixed(0.1)
    assert rows == pytest.approx(27)
    assert cost.fixed == pytest.approx(0.1 * (cost.fixed + cost.per_row * rows))
    assert Cost(0.0, 1.0).rows_for_fixed(0.1) == 1
    assert Cost(1.0, 0.0).rows_for_fixed(0.1) == math.inf
