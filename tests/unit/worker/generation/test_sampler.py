from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.engines.base import Logits
from shoal.types import Sampling
from shoal.worker.generation import sampler
from shoal.worker.generation.sampler import Draw, sample, uniform

LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))


def one(logits: Logits, *, prompt: tuple[int, ...] = (0,), output: tuple[int, ...] = (), **sampling: Any) -> int:
    [sampled] = sample(logits[None], [Draw(Sampling(**sampling), prompt, output)])
    assert sampled is not None
    return sampled.token


def shares(count: int = 4000, logits: Logits = LOGITS, **sampling: Any) -> list[float]:
    """How often each token is drawn over so many seeds."""
    draws = [Draw(Sampling(seed=seed, **sampling), (0,), ()) for seed in range(count)]
    sampled = sample(np.tile(logits, (count, 1)), draws)
    tokens = [one.token for one in sampled if one is not None]
    return list(np.bincount(tokens, minlength=len(logits)) / count)


def chi_square(observed: list[float], probabilities: list[float], count: int = 4000) -> float:
    return sum((o - p) ** 2 / p * count for o, p in zip(observed, probabilities, strict=True) if p > 0)


@pytest.mark.parametrize(
    ("sampling", "probabilities"),
    [
        ({}, [0.4, 0.3, 0.15, 0.1, 0.05]),
        ({"temperature": 0.5}, [0.561, 0.316, 0.079, 0.035, 0.009]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.7}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.71}, [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        ({"min_p": 0.3}, [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [4 / 7, 3 / 7, 0, 0, 0]),  # of the three that are left, two hold 0.82
        ({"logit_bias": {0: -100, 4: math.log(2)}}, [0, 0.3 / 0.65, 0.15 / 0.65, 0.1 / 0.65, 0.1 / 0.65]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should_be(sampling: dict[str, Any], probabilities: list[float]) -> None:
    observed = shares(**sampling)
    assert [share > 0 for share in observed] == [p > 0 for p in probabilities]
    assert chi_square(observed, probabilities) < 23.5  # 4 degrees of freedom, one in ten thousand


def test_a_large_vocabulary_is_drawn_from_as_it_should_be() -> None:
    logits = np.random.default_rng(1).normal(size=1000).astype(np.float32) * 2
    weights = np.exp(logits.astype(float))
    observed = np.array(shares(20_000, logits))
    groups = np.arange(1000) % 7
    got = [float(observed[groups == group].sum()) for group in range(7)]
    wanted = [float(weights[groups == group].sum() / weights.sum()) for group in range(7)]
    assert chi_square(got, wanted, 20_000) < 27.9  # 6 degrees of freedom


@given(seed=st.integers(0, 50), scale=st.floats(0.01, 30), position=st.integers(0, 1000))
def test_the_draw_inverts_the_distribution_function(seed: int, scale: float, position: int) -> None:
    logits = (np.random.default_rng(seed).normal(size=700) * scale).astype(np.float32)
    token = one(logits, prompt=(0,) * position, seed=seed)
    weights = np.exp(logits.astype(float) - logits.max())
    ends = weights.cumsum() / weights.sum()
    at = uniform(seed, position)
    assert (ends[token - 1] if token else 0) - 1e-12 <= at <= ends[token] + 1e-12
    assert weights[token] > 0


def test_the_random_numbers_are_fixed_for_ever() -> None:
    assert [uniform(0, 0), uniform(0, 1), uniform(2**70, 5), uniform(-1, 5)] == NUMBERS
    numbers = [uniform(1, position) for position in range(10_000)]
    assert 0 <= min(numbers) < 0.001
    assert 0.999 < max(numbers) < 1
    assert abs(sum(numbers) / 10_000 - 0.5) < 0.01


NUMBERS = [0.8336885269740499, 0.9459165357046844, 0.6901442975105532, 0.00848949173777469]


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(6, 300)).astype(np.float32)
    draws = [Draw(Sampling(seed=row, top_p=0.9, logprobs=2), (1,) * row, (2,) * 3) for row in range(6)]
    together = sample(logits, draws)
    assert together == [sample(logits[row : row + 1], draws[row : row + 1])[0] for row in range(6)]
    # A generated token counts for the position like one of the prompt: a continuation elsewhere draws the same.
    assert one(LOGITS, prompt=(0, 1, 2), output=(3,), seed=9) == one(LOGITS, prompt=(0, 1, 2, 3), seed=9)


@pytest.mark.parametrize(("at", "token"), [(0.0, 300), (1 - 2.0**-53, 399)])
def test_the_ends_of_the_distribution_are_possible_tokens(
    monkeypatch: pytest.MonkeyPatch, at: float, token: int
) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda seed, position: at)
    allowed = np.zeros(800, np.bool_)
    allowed[300:400] = True
    logits = np.random.default_rng(2).normal(size=(1, 800)).astype(np.float32)
    [sampled] = sample(logits, [Draw(Sampling(), (0,), (), allowed)])
    assert sampled is not None
    assert sampled.token == token


@pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.2}])
def test_what_a_cut_leaves_stays_in_the_order_of_ids(monkeypatch: pytest.MonkeyPatch, cut: dict[str, Any]) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda seed, position: 0.0)
    assert one(np.array([0, 2, 2.5, 3], np.float32), **cut) == 1


@pytest.mark.parametrize("size", [5, 256, 257, 3000])
@pytest.mark.parametrize("count", [1, 5, 12, 13, 300])
@pytest.mark.parametrize("different", [1, 9, 10**6])
def test_the_likeliest_are_those_that_a_whole_sort_gives(size: int, count: int, different: int) -> None:
    logits = np.random.default_rng(size).integers(different, size=(1, size)).astype(np.float32)
    [sampled] = sample(logits, [Draw(Sampling(logprobs=count), (0,), ())])
    assert sampled is not None
    assert [token for token, _ in sampled.top] == np.argsort(-logits[0], kind="stable")[:count].tolist()


def test_greedy_takes_the_likeliest_and_of_equals_the_first() -> None:
    assert one(np.array([1, 5, 5, 2], np.float32), temperature=0.0) == 1
    assert one(np.array([1, 5, 5, 2], np.float32), temperature=0.0, logit_bias={3: 3.0}) == 1


def test_of_equals_at_the_cut_off_the_first_stay() -> None:
    logits = np.zeros(8, np.float32)
    assert [share > 0 for share in shares(200, logits, top_k=3)] == [True] * 3 + [False] * 5
    assert [share > 0 for share in shares(200, logits, top_p=0.25)] == [True] * 2 + [False] * 6


def test_a_tiny_temperature_is_greedy() -> None:
    assert shares(20, temperature=1e-310) == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("sampling", "token"),
    [
        ({}, 0),
        ({"repetition_penalty": 2.0}, 2),  # 6/2 and 5/2 fall below 4; the prompt counts too
        ({"presence_penalty": 1.5}, 0),  # only the output counts: 5 - 1.5
        ({"frequency_penalty": 1.5}, 0),
        ({"repetition_penalty": 0.5}, 0),
    ],
)
def test_penalties_count_what_they_should(sampling: dict[str, float], token: int) -> None:
    logits = np.array([6, 5, 4, -1], np.float32)
    assert one(logits, prompt=(0,), output=(1, 1), temperature=0.0, **sampling) == token


@pytest.mark.parametrize(
    ("sampling", "token"),
    [({"presence_penalty": 0.9}, 0), ({"presence_penalty": 1.1}, 1), ({"frequency_penalty": 0.4}, 1)],
)
def test_frequency_is_counted_and_presence_is_not(sampling: dict[str, float], token: int) -> None:
    logits = np.array([5, 4, -1], np.float32)
    assert one(logits, prompt=(2,), output=(0, 0, 0), temperature=0.0, **sampling) == token


def test_a_repetition_penalty_makes_negative_logits_smaller_too() -> None:
    assert one(np.array([-2, -3], np.float32), prompt=(0,), temperature=0.0, repetition_penalty=2.0) == 1


def test_a_grammar_leaves_only_what_it_allows() -> None:
    allowed = np.array([False, False, True, False, True])
    draws = [Draw(Sampling(seed=seed), (0,), (), allowed) for seed in range(200)]
    sampled = sample(np.tile(LOGITS, (200, 1)), draws)
    assert {one.token for one in sampled if one} == {2, 4}


def test_logprobs_are_those_of_the_unmodified_model_best_first() -> None:
    logits = np.array([1, 3, 3, 2], np.float32)
    total = math.log(sum(map(math.exp, logits)))
    draw = Draw(Sampling(temperature=0.0, logit_bias={0: 10.0}, logprobs=3), (0,), ())
    [sampled] = sample(logits[None], [draw])
    assert sampled is not None
    assert sampled.token == 0
    assert sampled.logprob == pytest.approx(1 - total)
    assert [token for token, _ in sampled.top] == [1, 2, 3]
    assert [value for _, value in sampled.top] == pytest.approx([3 - total, 3 - total, 2 - total])


def test_without_alternatives_there_is_still_the_tokens_own_logprob() -> None:
    [sampled] = sample(LOGITS[None], [Draw(Sampling(temperature=0.0, logprobs=0), (0,), ())])
    assert sampled is not None
    assert (sampled.token, sampled.top) == (0, ())
    assert sampled.logprob == pytest.approx(math.log(0.4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_numbers_is_refused_and_its_neighbours_are_not(bad: float) -> None:
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = bad
    draws = [Draw(Sampling(temperature=temperature), (0,), ()) for temperature in (0.0, 1.0, 1.0)]
    first, second, third = sample(logits, draws)
    assert (first is None, second is None, third is None) == (False, True, False)


def test_a_row_in_which_nothing_possible_is_allowed_is_refused() -> None:
    logits = np.array([[0, -np.inf]], np.float32)
    assert sample(logits, [Draw(Sampling(), (0,), (), np.array([False, True]))]) == [None]


def test_logits_are_left_as_they_are() -> None:
    logits = np.tile(LOGITS, (1, 1))
    sample(logits, [Draw(Sampling(logit_bias={0: 5.0}, presence_penalty=1.0, top_k=2, logprobs=1), (0,), (1,))])
    assert np.array_equal(logits[0], LOGITS)
