"""Batching: MiniLM for many clients, each with one text of 64 tokens at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from rivals import bare, infinity, mosec, shoal, triton
from rivals.contest import Contest
from rivals.entrant import Figures, Loop, Server
from rivals.load import check, figures, press
from rivals.questions import FIRST, Questions
from shoal.types import Array

#: A token each. They spell the number of a text, and fill it up to 64 tokens with the two around every text.
WORDS: Final = ("sea", "fish", "boat", "net", "wind", "salt", "tide", "gull", "sand", "rope")
REST: Final = " ".join(np.random.default_rng(0).choice(WORDS, 62 - len(str(FIRST))))
LEAST_COSINE: Final = 0.999  # to the embedding that ONNX Runtime gives in fp32


def _right(numbers: Sequence[int], answers: Sequence[Any]) -> bool:
    expected = _expected(tuple(numbers))
    given = np.array(answers, np.float64)
    return given.shape == expected.shape and float((given * expected).sum(1).min()) > LEAST_COSINE


@cache
def _expected(numbers: tuple[int, ...]) -> Array:
    return bare.embed("minilm", [QUESTIONS.make(QUESTIONS.spell(number)) for number in numbers])


QUESTIONS: Final = Questions(make=lambda spelt: f"{spelt} {REST}", right=_right, joiner=" ", digits=WORDS)


def _check(url: str, server: Server, count: int) -> None:
    check(url, server, QUESTIONS, 32, count)


def _warm_up(url: str, server: Server, clients: int) -> None:
    press(url, server, QUESTIONS, clients=clients, seconds=2)


def _measure(url: str, server: Server, clients: int, seconds: float) -> Figures:
    return figures(press(url, server, QUESTIONS, clients=clients, seconds=seconds))


def _loop(uri: str, cores: int, clients: int) -> Figures:
    texts = [QUESTIONS.make(QUESTIONS.spell(FIRST + number)) for number in range(clients)]
    return bare.embeddings(uri, texts, cores)


def onnx_loop(cores: int, clients: int) -> Figures:
    return _loop("minilm", cores, clients)


def openvino_loop(cores: int, clients: int) -> Figures:
    return _loop("minilm?engine=openvino", cores, clients)


EMBEDDINGS: Final = Contest(
    name="embeddings",
    title="MiniLM, texts of 64 tokens, one a request",
    unit="texts/s",
    entrants=(
        Loop("bare loop, ONNX Runtime", onnx_loop),
        shoal.ONNX_EMBEDDINGS,
        mosec.EMBEDDINGS,
        triton.EMBEDDINGS,
        infinity.EMBEDDINGS,
        Loop("bare loop, OpenVINO", openvino_loop),
        shoal.OPENVINO_EMBEDDINGS,
    ),
    clients=32,
    check=_check,
    warm_up=_warm_up,
    measure=_measure,
    models=("minilm",),
    start_within=120,
)
