"""Generation over real weights: answers that are preempted, and answers that go on elsewhere, keep every token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from models import smollm2_folder, smollm2_gguf

from shoal.engines.base import EngineOptions, LanguageEngine, Logits, Row
from shoal.engines.llama import LlamaEngine
from shoal.engines.openvino import OpenVINOEngine
from shoal.messages import Chunk, Generate
from shoal.types import ChatMessage, ChatPrompt, Grammar, ModelName, RequestId, Sampling
from shoal.worker.generation import GenerationLoop
from shoal.worker.generation.detokenizer import Detokenizer
from shoal.worker.loading import encode

QUESTION = "Tell me a short story of a fish."


@dataclass
class Server:
    engine: LanguageEngine
    loop: GenerationLoop

    async def ask(
        self,
        text: str = QUESTION,
        *,
        grammar: Grammar | None = None,
        output: tuple[int, ...] = (),
        priority: int = 0,
        **sampling: Any,
    ) -> Chunk:
        params = Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling})
        prompt = ChatPrompt((ChatMessage("user", text),))
        request = Generate(RequestId("r"), ModelName("m"), prompt, params, grammar, output, priority=priority)
        stream = self.loop.generate(request)
        chunks = [chunk async for chunk in stream]
        return Chunk(
            text="".join(chunk.text for chunk in chunks),
            tokens=tuple(token for chunk in chunks for token in chunk.tokens),
            logprobs=tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
            finish_reason=chunks[-1].finish_reason,
            usage=chunks[-1].usage,
        )


def openvino(threads: int, kv_tokens: int, places: int) -> LanguageEngine:
    return OpenVINOEngine(smollm2_folder(), EngineOptions(threads, kv_tokens, places))


def llama(threads: int, kv_tokens: int, places: int) -> LanguageEngine:
    return LlamaEngine(smollm2_gguf(), EngineOptions(threads, kv_tokens, places))


Make = Callable[[int, int, int], LanguageEngine]


@pytest.fixture(params=[openvino, llama])
async def serve(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Server]]:
    make: Make = request.param
    servers: list[Server] = []

    def serve(threads: int = 1, kv_tokens: int = 8192, places: int = 8) -> Server:
        engine = make(threads, kv_tokens, places)
        loop = GenerationLoop(engine, encode_prompt=lambda prompt: encode(engine.tokenizer, prompt))
        loop.start()
        servers.append(Server(engine, loop))
        return servers[-1]

    yield serve
    for server in servers:
        await server.loop.close()
        server.loop.check_integrity()


def given_out(engine: LanguageEngine, tokens: tuple[int, ...], stop: tuple[str, ...]) -> str:
    detokenizer = Detokenizer(stop)
    return "".join(detokenizer.feed(engine.tokenizer.token_bytes(token)) for token in tokens)


CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": {"temperature": 1.0, "seed": 11, "top_p": 0.95},
    "penalties": {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2, "logprobs": 2},
    "json": {
        "grammar": Grammar("json_schema", '{"type": "object", "properties": {"name": {"type": "string"}}}'),
        "temperature": 0.7,
        "seed": 3,
    },
    "half characters": {"grammar": Grammar("regex", "[🐟🐠日é]{6}"), "temperature": 1.0, "seed": 4},
}


async def test_an_answer_goes_on_elsewhere_from_every_token(serve: Callable[..., Server]) -> None:
    first, second = serve(1), serve(2)
    wholes = {name: await first.ask(**options) for name, options in CASES.items()}
    # A stop string that begins in one token and ends in another.
    said = wholes["greedy"].text
    cases = CASES | {"stop": {"stop": (said[len(said) // 2 - 4 : len(said) // 2 + 4],)}}
    wholes["stop"] = await first.ask(**cases["stop"])
    assert len(wholes["stop"].tokens) < len(wholes["greedy"].tokens)
    assert len(wholes["half characters"].text) == 6
    for name, options in cases.items():
        whole = wholes[name]
        cuts = range(0, len(whole.tokens), 1 if second.engine.capabilities.max_generated > 1 else 5)  # others are slow
        rests = await asyncio.gather(*(second.ask(output=whole.tokens[:cut], **options) for cut in cuts))
        for cut, rest in zip(cuts, rests, strict=True):
            before = given_out(first.engine, whole.tokens[:cut], options.get("stop", ()))
            assert before + rest.text == whole.text, name
            assert whole.tokens[:cut] + rest.tokens == whole.tokens, name
            assert rest.logprobs == whole.logprobs[cut:], name  # the same bits, not nearly so
            assert rest.finish_reason == whole.finish_reason


@pytest.mark.parametrize("serve", [openvino], indirect=True)  # llama.cpp's sequences have a block each
async def test_answers_that_make_room_for_others_keep_every_token(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = serve()
    texts = [f"Write a poem about the number {number}." for number in range(4)]
    options: dict[str, Any] = {"max_tokens": 80, "temperature": 1.0, "logprobs": 0, "ignore_eos": True}
    expected = [await alone.ask(text, **options) for text in texts]
    tight = serve(2, 320)
    replayed: list[int] = []
    step = tight.engine.step

    def watch(rows: Sequence[Row]) -> Logits:
        replayed.extend(len(row.tokens) for row in rows if row.generated and len(row.tokens) > 1)
        return step(rows)

    monkeypatch.setattr(tight.engine, "step", watch)
    together = await asyncio.gather(*(tight.ask(text, **options) for text in texts))
    assert max(replayed) > 10
    assert [answer.tokens for answer in together] == [answer.tokens for answer in expected]
    assert [answer.logprobs for answer in together] == [answer.logprobs for answer in expected]


async def test_an_urgent_answer_comes_while_others_pause_and_keep_every_token(serve: Callable[..., Server]) -> None:
    texts = [f"Write a poem about the number {number}." for number in range(3)]
    options: dict[str, Any] = {"max_tokens": 20, "temperature": 1.0, "logprobs": 0, "ignore_eos": True, "seed": 2}
    urgent: dict[str, Any] = {"text": "Name a colour.", "max_tokens": 4, "ignore_eos": True}
    alone = serve()
    expected = [await alone.ask(text, **options) for text in texts]
    expected_urgent = await alone.ask(**urgent)
    full, steps = serve(places=3), 0
    step = full.engine.step
    full_of_rows, turns = asyncio.Event(), asyncio.get_running_loop()

    def watch(rows: Sequence[Row]) -> Logits:
        nonlocal steps
        steps += 1
        if len(rows) == full.engine.capabilities.max_sequences:
            turns.call_soon_threadsafe(full_of_rows.set)
        return step(rows)

    full.engine.step = watch  # type: ignore[method-assign]
    low = [asyncio.create_task(full.ask(text, **options)) for text in texts]
    await asyncio.wait_for(full_of_rows.wait(), 60)
    before = steps
    answer = await full.ask(priority=5, **urgent)
    assert steps - before <= 10  # four of its own, and those until it was read
    assert answer.tokens == expected_urgent.tokens
    assert not all(task.done() for task in low)
    together = await asyncio.gather(*low)
    assert [answer.tokens for answer in together] == [answer.tokens for answer in expected]
    assert [answer.logprobs for answer in together] == [answer.logprobs for answer in expected]
