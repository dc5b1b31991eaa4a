from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster import CoreGrant, engine_environment, plan_cores, share_grant, step_environment


@pytest.mark.parametrize(
    ("cpus", "workers", "grants"),
    [
        pytest.param([0, 1], 1, [CoreGrant((0, 1), 2)], id="one worker has the machine"),
        pytest.param([0, 1], 2, [CoreGrant((0,), 1), CoreGrant((1,), 1)], id="two workers never meet"),
        pytest.param(
            [0, 1, 2, 3, 4],
            2,
            [CoreGrant((0, 1), 2), CoreGrant((2, 3, 4), 3)],
            id="what is left over makes one worker larger",
        ),
        pytest.param([4, 6], 1, [CoreGrant((4, 6), 2)], id="only the cores this process may use"),
        pytest.param(
            [0, 1],
            3,
            [CoreGrant((0,), 1, shared=True), CoreGrant((1,), 1, shared=True), CoreGrant((0,), 1, shared=True)],
            id="more workers than cores take one each in turn",
        ),
    ],
)
def test_cores_are_dealt_out(cpus: list[int], workers: int, grants: list[CoreGrant]) -> None:
    assert plan_cores(cpus, workers) == grants


@given(st.lists(st.integers(0, 500), min_size=1, max_size=70, unique=True), st.integers(1, 100))
def test_no_engine_has_more_threads_than_cores_and_no_core_is_idle(cpus: list[int], workers: int) -> None:
    grants = plan_cores(cpus, workers)
    given_out = [cpu for grant in grants for cpu in grant.cpus]
    assert len(grants) == workers
    assert all(grant.threads == len(grant.cpus) >= 1 for grant in grants)
    assert set(given_out) == set(cpus)
    if workers <= len(cpus):
        assert sorted(given_out) == sorted(cpus), "no core is given twice"
        sizes = {grant.threads for grant in grants}
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("cpus", "workers"), [([], 1), ([0], 0)])
def test_there_must_be_something_to_plan_for(cpus: list[int], workers: int) -> None:
    with pytest.raises(ValueError, match="cores and workers"):
        plan_cores(cpus, workers)


def test_threads_are_set_for_every_library_that_would_count_the_cores_itself() -> None:
    environment = engine_environment(CoreGrant((2, 3, 4), 3))
    assert {environment[name] for name in environment if name.endswith("_NUM_THREADS")} == {"3"}
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} <= environment.keys()
    assert environment["GGML_NO_BACKTRACE"] == "1"


def test_engines_that_share_cores_spin_less() -> None:
    alone = CoreGrant((0, 1), 2)
    spins = [int(engine_environment(share_grant(alone, engines))["GOMP_SPINCOUNT"]) for engines in (1, 2)]
    assert spins == [3000, 300]


def test_the_engines_of_one_worker_all_have_its_cores() -> None:
    assert share_grant(CoreGrant((0, 1), 2), 3) == CoreGrant((0, 1), 2, shared=True)
    assert share_grant(CoreGrant((0,), 1, shared=True), 1).shared


def test_a_step_process_has_one_thread_whatever_counts_the_cores() -> None:
    environment = step_environment()
    assert {environment[name] for name in environment if name.endswith("_NUM_THREADS")} == {"1"}
    assert "RAYON_NUM_THREADS" in environment
    assert environment["GOMP_SPINCOUNT"] == "300"
