"""What a request asks for, before it has run."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.coordinator.admission.demand import USUAL_ANSWER, Demand, UsualAnswer, demand
from shoal.messages import Generate, Infer
from shoal.types import ChatMessage, ChatPrompt, ModelName, Prompt, RequestId, Sampling, TextPrompt, TokenPrompt


def generate(prompt: Prompt, max_tokens: int | None = 10) -> Generate:
    return Generate(RequestId("r"), ModelName("m"), prompt, Sampling(max_tokens=max_tokens))


def wanted(request: Generate | Infer, *, batchable: bool = True) -> Demand:
    return demand(request, batchable=batchable, usual_answer=100)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (TokenPrompt((1, 2, 3)), 3),
        (TextPrompt("eight by"), 2),
        (TextPrompt("nine byte"), 3),
        (TextPrompt("äöü"), 2),
        (TextPrompt("\ud800"), 1),
        (ChatPrompt((ChatMessage("user", "four"), ChatMessage("assistant", "four"))), 2),
    ],
)
def test_a_prompt_counts_by_its_tokens_or_a_fourth_of_its_bytes(prompt: Prompt, tokens: int) -> None:
    assert wanted(generate(prompt)) == Demand(0, tokens + 10)


def test_an_answer_without_a_limit_counts_as_long_as_they_usually_are() -> None:
    assert wanted(generate(TokenPrompt((1,)), None)) == Demand(0, 101)


def test_no_request_is_free() -> None:
    assert wanted(generate(TokenPrompt(()), 1)).cost == 1


def test_tensors_count_by_their_rows_where_rows_can_be_batched() -> None:
    request = Infer(RequestId("r"), ModelName("m"), {"x": np.zeros((7, 3))})
    assert wanted(request) == Demand(7, 0)
    assert wanted(request, batchable=False) == Demand(1, 0)
    assert wanted(Infer(RequestId("r"), ModelName("m"), {"x": np.zeros(())})).cost == 1
    assert wanted(Infer(RequestId("r"), ModelName("m"), {"x": np.zeros((0, 3))})).cost == 1
    assert wanted(Infer(RequestId("r"), ModelName("m"), {})).cost == 1


def test_the_usual_answer_follows_those_that_end() -> None:
    usual = UsualAnswer()
    assert usual.tokens == USUAL_ANSWER
    for _ in range(200):
        usual.ended(20)
    assert usual.tokens == 20
