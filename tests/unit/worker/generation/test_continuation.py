"""An answer that broke off is taken up by another worker, and nobody can tell: at every token, whatever it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from shoal.engines.base import Logits, Row
from shoal.engines.toy import EOS, ToyEngine
from shoal.errors import ContextLengthExceeded, InvalidRequest
from shoal.messages import Chunk
from shoal.types import FinishReason, Grammar
from shoal.worker.generation.detokenizer import Detokenizer

Serve = Callable[..., Any]

PROMPT = "once upon a time there was a shoal of fish"
SCHEMA = Grammar(
    "json_schema",
    '{"type": "object", "properties": {"a": {"type": "string", "maxLength": 12}, "b": {"type": "boolean"}},'
    ' "required": ["a", "b"], "additionalProperties": false}',
)


def says(text: str) -> Callable[[Sequence[Row], Logits], None]:
    """Makes a toy say this after ``PROMPT``, a byte a token, and then end."""
    script = [*text.encode(), EOS]

    def intervene(rows: Sequence[Row], logits: Logits) -> None:
        wanted = [row for row in rows if row.wants_logits]
        for row, scores in zip(wanted, logits, strict=True):
            scores[:] = 0
            scores[script[min(row.start + len(row.tokens) - len(PROMPT), len(script) - 1)]] = 30

    return intervene


def given_out(tokens: Sequence[int], stop: Sequence[str]) -> str:
    """What a client has seen after these tokens."""
    detokenizer = Detokenizer(stop)
    return "".join(detokenizer.feed(b"" if token == EOS else bytes((token,))) for token in tokens)


async def check_every_cut(first: Any, second: Any, *, least: int, **options: Any) -> Chunk:
    whole: Chunk = await first.ask(PROMPT, **options)
    assert len(whole.tokens) >= least
    for cut in range(len(whole.tokens)):
        said = whole.tokens[:cut]
        rest = await second.ask(PROMPT, output=said, **options)
        assert given_out(said, options.get("stop", ())) + rest.text == whole.text
        assert said + rest.tokens == whole.tokens
        assert rest.logprobs == whole.logprobs[cut:]
        assert rest.finish_reason == whole.finish_reason
        assert rest.usage is not None
        assert rest.usage.completion_tokens == len(whole.tokens)
    return whole


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 1.5, "seed": 6, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "logprobs": 3},
        {"temperature": 0.0, "presence_penalty": 1.0, "frequency_penalty": 0.7, "repetition_penalty": 1.4},
        {"temperature": 1.0, "seed": 7, "logit_bias": {97: 8.0}, "ignore_eos": False},
    ],
    ids=["greedy", "seeded", "cut off, with logprobs", "penalties", "biased, to its end"],
)
@pytest.mark.parametrize("max_generated", [1, 512])
async def test_a_continuation_is_the_rest_of_the_answer(
    serve: Serve, options: dict[str, Any], max_generated: int
) -> None:
    second = serve(engine=ToyEngine(max_generated=max_generated))
    await check_every_cut(serve(), second, least=8, max_tokens=24, **options)  # over three blocks


async def test_a_stop_string_over_the_seam_ends_it_and_is_not_said(serve: Serve) -> None:
    engines = [ToyEngine(), ToyEngine()]
    for engine in engines:
        engine.intervene = says("a fish, a fis, a fishbone and more")
    whole = await check_every_cut(
        *(serve(engine=engine) for engine in engines), least=18, stop=("fishbone", "never"), ignore_eos=False
    )
    assert (whole.text, whole.finish_reason) == ("a fish, a fis, a ", FinishReason.STOP)


async def test_what_looked_like_a_stop_string_before_the_seam_is_said_after_it(serve: Serve) -> None:
    engines = [ToyEngine(), ToyEngine()]
    for engine in engines:
        engine.intervene = says("fishbon")
    servers = [serve(engine=engine) for engine in engines]
    whole = await check_every_cut(*servers, least=8, stop=("fishbone",), ignore_eos=False)
    assert whole.text == "fishbon"


async def test_characters_over_the_seam_come_whole(serve: Serve) -> None:
    engines = [ToyEngine(), ToyEngine()]
    for engine in engines:
        engine.intervene = says("né 魚 🐟🐠 fin")
    servers = [serve(engine=engine) for engine in engines]
    whole = await check_every_cut(*servers, least=20, stop=("🐟!", "fine"), ignore_eos=False)
    assert whole.text == "né 魚 🐟🐠 fin"


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "seeded"])
async def test_a_grammar_goes_on_where_it_was(serve: Serve, options: dict[str, Any]) -> None:
    whole = await check_every_cut(serve(), serve(), least=18, grammar=SCHEMA, ignore_eos=False, **options)
    assert whole.text.startswith('{"a":"')
    assert whole.text.endswith("}")


async def test_it_is_the_same_where_memory_is_so_short_that_it_pauses_again(serve: Serve) -> None:
    roomy, tight = serve(), serve(engine=ToyEngine(context_length=128, block_size=16, num_blocks=9))
    options: dict[str, Any] = {"max_tokens": 60, "temperature": 1.0}
    prompts = [f"prompt number {number}" for number in range(6)]
    expected = [await roomy.ask(prompt, **options) for prompt in prompts]
    asks = [tight.ask(p, output=whole.tokens[:20], **options) for p, whole in zip(prompts, expected, strict=True)]
    for rest, whole in zip(await asyncio.gather(*asks), expected, strict=True):
        assert rest.tokens == whole.tokens[20:]
    assert tight.counts.reasons["memory"] > 0


async def test_the_output_is_replayed_in_one_row(serve: Serve) -> None:
    server = serve()
    whole = await server.ask(PROMPT, max_tokens=30)
    server.engine.steps.clear()
    await server.ask(PROMPT, max_tokens=30, output=whole.tokens[:25])
    first, replay = server.engine.steps[0][0], server.engine.steps[1][0]
    assert (first.generated, first.wants_logits) == (False, False)
    assert (replay.generated, tuple(replay.tokens)) == (True, whole.tokens[:25])


@pytest.mark.parametrize(
    ("output", "options", "param"),
    [
        (b"abc", {"max_tokens": 3}, "output"),
        (b"abcd", {"max_tokens": 3}, "output"),
        (b"ab-stop-", {"stop": ("-stop-",)}, "output"),
        (b"{}", {"grammar": SCHEMA}, "response_format"),
        (b'{"a":"b","b":true}', {"grammar": SCHEMA}, "output"),
        ((97, EOS), {"ignore_eos": False}, "output"),
    ],
    ids=["length", "beyond the length", "stop string", "not of the grammar", "whole grammar", "end of sequence"],
)
async def test_an_answer_that_has_ended_or_never_was_is_not_gone_on_with(
    serve: Serve, output: Sequence[int], options: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await serve().ask(PROMPT, output=tuple(output), **options)
    assert refused.value.param == param


async def test_an_answer_that_does_not_fit_here_is_refused_with_the_limit(serve: Serve) -> None:
    server = serve(engine=ToyEngine(context_length=64))
    with pytest.raises(ContextLengthExceeded, match=r"the prompt and its output have 64 tokens; .* may have 64"):
        await server.ask(PROMPT, output=tuple(np.full(64 - len(PROMPT), 97).tolist()))
