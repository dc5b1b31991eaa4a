"""Real answers of a real model: the same whoever else asks, and cut off when nobody listens."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from processes import Command

import shoal

QUESTIONS = [
    "What is the capital of France?",
    "Name three fish.",
    "Write a short poem about the sea.",
    "Why is the sky blue?",
    "Count from one to ten.",
    "Explain what a shoal is.",
    "What is two plus two?",
    "Tell me a story about a whale and a small boat in a storm.",
]


def ask(client: shoal.Client, question: str, **sampling: Any) -> str:
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 48, **sampling}
    return client.generate([{"role": "user", "content": question}], **options).text


def test_the_model_knows_the_capital_of_france(served: tuple[str, Command]) -> None:
    with shoal.Client(served[0]) as client:
        assert "Paris" in ask(client, QUESTIONS[0])


def test_eight_streams_at_once_give_the_same_texts_as_one_by_one(served: tuple[str, Command]) -> None:
    with shoal.Client(served[0]) as client:
        alone = [ask(client, question) for question in QUESTIONS]
        for _ in range(3):
            with ThreadPoolExecutor(8) as pool:
                together = list(pool.map(lambda question: ask(client, question), QUESTIONS))
            assert together == alone
    assert len(set(alone)) == 8


def test_a_seed_gives_the_same_answer_again_and_another_seed_another(served: tuple[str, Command]) -> None:
    with shoal.Client(served[0]) as client:
        first, again, other = (ask(client, QUESTIONS[2], temperature=1.0, seed=seed) for seed in (7, 7, 8))
    assert first == again != other


def test_related_sentences_are_nearer_than_unrelated_ones(served: tuple[str, Command]) -> None:
    with shoal.Client(served[0]) as client:
        fish, shoal_, stock = client.embed(
            ["A fish swims in the sea.", "A shoal of herring crosses the ocean.", "The stock market fell on Monday."]
        )
    assert np.dot(fish, shoal_) > 0.4 > np.dot(fish, stock)


def test_a_client_that_leaves_frees_the_engine(served: tuple[str, Command]) -> None:
    async def leave_early() -> None:
        async with shoal.AsyncClient(served[0]) as client:
            chunks = client.stream([{"role": "user", "content": QUESTIONS[7]}], max_tokens=4000, ignore_eos=True)
            async for _ in chunks:
                break
            await chunks.aclose()

    asyncio.run(leave_early())
    deadline = time.monotonic() + 5
    while metric(served[0], "shoal_in_flight_requests") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert metric(served[0], "shoal_in_flight_requests") == 0


def metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
