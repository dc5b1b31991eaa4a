from __future__ import annotations

import numpy as np
import pytest

from shoal.coordinator.continuation import MAX_FAILURES, MAX_WORKERS, Continuation
from shoal.errors import Draining, EngineFailed, Overloaded, WorkerLost
from shoal.messages import Chunk, Generate, Infer, Inferred
from shoal.types import ModelName, RequestId, Sampling, TextPrompt

FISH = ModelName("fish")
GENERATE = Generate(RequestId("r"), FISH, TextPrompt("count"), Sampling(seed=7))
INFER = Infer(RequestId("r"), FISH, {"x": np.zeros(1)})


def chunk(*tokens: int) -> Chunk:
    return Chunk("", tokens)


def test_the_next_worker_is_asked_for_what_has_not_gone_out() -> None:
    answer = Continuation(GENERATE)
    assert answer.asking() is GENERATE
    assert answer.asking() is GENERATE
    answer.passed_on(chunk(1, 2))
    answer.passed_on(chunk(3))
    rest = answer.asking()
    assert isinstance(rest, Generate)
    assert rest.output == (1, 2, 3)
    assert (rest.prompt, rest.sampling) == (GENERATE.prompt, GENERATE.sampling)
    answer.passed_on(chunk(4))
    rest = answer.asking()
    assert isinstance(rest, Generate)
    assert rest.output == (1, 2, 3, 4)


def test_what_the_request_came_with_stays_a_part_of_it() -> None:
    answer = Continuation(Generate(RequestId("r"), FISH, TextPrompt("count"), Sampling(), output=(8, 9)))
    answer.passed_on(chunk(1))
    rest = answer.asking()
    assert isinstance(rest, Generate)
    assert rest.output == (8, 9, 1)


def part(number: int) -> Inferred:
    return Inferred({"y": np.array([number])}, last=False)


def test_a_tensor_answer_that_has_begun_begins_anew_and_goes_on_behind_what_went_out() -> None:
    answer = Continuation(INFER)
    assert answer.asking() is INFER
    for number in range(2):
        answer.passed_on(part(number))
    assert answer.can_go_on
    assert answer.begins_anew
    assert answer.asking() is INFER
    assert [answer.is_known(part(number)) for number in range(3)] == [True, True, False]


def test_a_tensor_answer_that_comes_out_otherwise_does_not_go_on() -> None:
    answer = Continuation(INFER)
    answer.asking()
    answer.passed_on(part(0))
    answer.asking()
    with pytest.raises(WorkerLost):
        answer.is_known(part(7))
    assert not answer.can_go_on


def test_a_tensor_answer_in_one_part_leaves_nothing_to_ask_for() -> None:
    answer = Continuation(INFER)
    answer.asking()
    answer.passed_on(Inferred({"y": np.zeros(1)}))
    assert not answer.begins_anew


def test_engines_that_add_nothing_end_it_and_progress_gives_it_new_tries() -> None:
    answer = Continuation(GENERATE)
    for token in range(3):
        for _ in range(MAX_FAILURES - 1):
            answer.asking()
            answer.failed(EngineFailed())
            assert answer.can_go_on
        answer.passed_on(chunk(token))
    for _ in range(MAX_FAILURES):
        assert answer.can_go_on
        answer.asking()
        answer.failed(EngineFailed())
    assert not answer.can_go_on


def test_workers_that_go_away_one_after_the_other_are_no_fault_of_the_requests() -> None:
    answer = Continuation(GENERATE)
    for error in (WorkerLost(), Draining(), WorkerLost(), WorkerLost(), Overloaded()):
        answer.asking()
        answer.failed(error)
    assert answer.can_go_on


def test_a_request_that_ends_every_engine_it_meets_does_not_meet_them_all() -> None:
    answer = Continuation(GENERATE)
    workers = 0
    while answer.can_go_on:
        answer.asking()
        answer.passed_on(chunk(workers))
        workers += 1
    assert workers == MAX_WORKERS
