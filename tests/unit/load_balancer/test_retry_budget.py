from __future__ import annotations

from shoal.load_balancer import RetryBudget


def test_what_one_dead_worker_leaves_behind_may_all_be_tried_again() -> None:
    budget = RetryBudget()
    assert all(budget.withdraw() for _ in range(200))


def test_when_everything_fails_only_a_share_is_tried_again() -> None:
    budget = RetryBudget(share=0.2, reserve=10)
    retried = 0
    for _ in range(1000):
        budget.deposit()
        retried += budget.withdraw()
    assert 200 <= retried <= 210


def test_quiet_times_fill_it_up_to_the_reserve_and_no_further() -> None:
    budget = RetryBudget(share=1.0, reserve=3)
    for _ in range(100):
        budget.deposit()
    assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]
