"""Generation: SmolLM2, prompts of 100 tokens, 64 tokens an answer, streamed as server-sent events."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import numpy as np

from rivals import bare, llama_server, shoal, vllm
from rivals.contest import Contest
from rivals.entrant import Figures, Server, Wrong
from shoal.bench import Closed, Run, Scenario, run, summarise
from shoal.bench.http import HttpConnection
from shoal.bench.run import Plan
from shoal.bench.scenario import Sizes

PROMPT_TOKENS: Final = 100
ANSWER_TOKENS: Final = 64
KNOWN: Final = (("The capital of France is", "Paris"), ("The opposite of hot is", "cold"))
ANSWER_WITHIN: Final = 60.0  # seconds


def _body(model: str, number: int, sizes: Sizes) -> Any:
    """Prompts as tokens, so that every server reads the same ones, and none twice."""
    prompt = np.random.default_rng(number).integers(1000, 40_000, sizes.prompt_tokens).tolist()
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": sizes.max_tokens,
        "temperature": 0,
        "ignore_eos": True,  # all answers are as long as each other
        "stream": True,
        "stream_options": {"include_usage": True},
    }


_SCENARIO: Final = Scenario("/v1/completions", True, _body, lambda answer, sizes: True)


def warm_up(url: str, server: Server, clients: int) -> None:
    """Short answers: a server that takes long for one is warm after it."""
    load(url, clients, seconds=0.1, tokens=8, seed=1)


def _measure(url: str, server: Server, clients: int, seconds: float) -> Figures:
    done = load(url, clients, seconds, ANSWER_TOKENS, seed=2)
    summary = summarise(done)
    latency, first = summary.latency, summary.first_token
    assert latency is not None
    assert first is not None
    return Figures(rate=summary.tokens_per_second, p50=latency.p50, p99=latency.p99, first_p50=first.p50)


def load(url: str, clients: int, seconds: float, tokens: int, seed: int) -> Run:
    """Raises :class:`Wrong` unless every answer is as long as was asked for."""
    plan = Plan(
        url=url,
        scenario_name="generation",
        scenario=_SCENARIO,
        model="smollm2",
        sizes=Sizes(PROMPT_TOKENS, tokens),
        load=Closed(clients, seconds),
        warm_up=0,
        seed=seed,
    )
    done = asyncio.run(run(plan))
    if bad := [record for record in done.records if not record.ok or record.tokens != tokens]:
        raise Wrong(f"{len(bad)} of {len(done.records)} answers: {bad[0].outcome}, {bad[0].tokens} tokens")
    return done


def _check(url: str, server: Server, count: int) -> None:
    """Does it know what the model knows?"""
    asyncio.run(_ask_known(url, count))


async def _ask_known(url: str, count: int) -> None:
    connection = HttpConnection(urlsplit(url))
    for prompt, expected in KNOWN[:count]:
        body = {"model": "smollm2", "prompt": prompt, "max_tokens": 16, "temperature": 0}
        status = await connection.post("/v1/completions", msgspec.json.encode(body), ANSWER_WITHIN)
        answer = bytes(connection.body)
        if status != 200:
            raise Wrong(f"status {status}: {answer[:200].decode(errors='replace')}")
        text = msgspec.json.decode(answer)["choices"][0]["text"]
        if expected not in text:
            raise Wrong(f"'{prompt}' is followed by '{text}'")
    connection.close()


GENERATION: Final = Contest(
    name="generation",
    title=f"SmolLM2, prompts of {PROMPT_TOKENS} tokens, {ANSWER_TOKENS} tokens an answer",
    unit="tokens/s",
    entrants=(
        bare.GENERATION,
        shoal.OPENVINO_GENERATION,
        shoal.LLAMA_GENERATION,
        vllm.COMPILED,
        vllm.EAGER,
        llama_server.GENERATION,
    ),
    clients=8,
    check=_check,
    warm_up=warm_up,
    measure=_measure,
    models=("smollm2",),
    start_within=300,
)
