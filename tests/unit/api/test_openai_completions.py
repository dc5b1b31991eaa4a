from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from shoal.api.openai.completions import characters
from shoal.api.testing import Answer, AsgiClient, FakePlane
from shoal.messages import Chunk, Generate
from shoal.types import FinishReason, Prompt, TextPrompt, TokenLogprob, TokenPrompt, Usage

COMPLETION = {"model": "smollm2", "prompt": "Once", "max_tokens": 3, "seed": 5}


async def ask(client: AsgiClient, **fields: Any) -> Answer:
    return await client.request("POST", "/v1/completions", json=COMPLETION | fields)


async def test_a_completion_is_answered_whole(client: AsgiClient) -> None:
    body = (await ask(client)).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    (choice,) = body["choices"]
    assert len(choice["text"].split()) == 3
    assert (choice["finish_reason"], choice["logprobs"]) == ("length", None)
    assert body["usage"]["total_tokens"] == 10


async def test_a_streamed_completion_says_the_same(client: AsgiClient) -> None:
    whole = (await ask(client)).json()["choices"][0]["text"]
    events = (await ask(client, stream=True, stream_options={"include_usage": True})).events()
    choices = [choice for item in events[:-1] for choice in item["choices"]]
    assert "".join(choice["text"] for choice in choices) == whole
    assert choices[-1]["finish_reason"] == "length"
    assert events[-2]["usage"]["total_tokens"] == 10
    assert events[-1] == "[DONE]"


async def test_max_tokens_is_16_by_default_as_with_openai(client: AsgiClient, plane: FakePlane) -> None:
    await ask(client, max_tokens=None)
    assert plane.generated[0].sampling.max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", [TextPrompt("a")]),
        (["a"], [TextPrompt("a")]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([1, 2], [TokenPrompt((1, 2))]),
        ([[1], [2, 3]], [TokenPrompt((1,)), TokenPrompt((2, 3))]),
        (["a", [2]], [TextPrompt("a"), TokenPrompt((2,))]),
    ],
)
async def test_prompts_are_texts_or_tokens_one_or_many(
    client: AsgiClient, plane: FakePlane, prompt: Any, prompts: list[Prompt]
) -> None:
    answer = await ask(client, prompt=prompt)
    assert answer.status == 200
    assert [request.prompt for request in plane.generated] == prompts


async def test_the_generations_of_one_request_are_a_group(client: AsgiClient, plane: FakePlane) -> None:
    for _ in range(2):
        await ask(client, prompt=["a", "b"], n=2)
    await ask(client, prompt="alone")
    groups = [request.group for request in plane.generated]
    assert [len(set(part)) for part in (groups[:4], groups[4:8], groups[:8])] == [1, 1, 2]
    assert "" not in groups[:8]
    assert groups[8:] == [""]


async def test_choices_are_ordered_by_prompt_and_then_by_sample(client: AsgiClient, plane: FakePlane) -> None:
    body = (await ask(client, prompt=["a", "b"], n=2)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [(request.prompt, request.sampling.seed) for request in plane.generated] == [
        (TextPrompt("a"), 5),
        (TextPrompt("a"), 6),
        (TextPrompt("b"), 5),
        (TextPrompt("b"), 6),
    ]
    assert body["usage"]["prompt_tokens"] == 14
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 8


async def test_logprobs_are_in_the_older_shape(client: AsgiClient) -> None:
    (choice,) = (await ask(client, logprobs=2)).json()["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["token_logprobs"] == [-0.25] * 3
    assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2, 2]
    assert [choice["text"][at:][: len(token)] for at, token in zip(
        logprobs["text_offset"], logprobs["tokens"], strict=True
    )] == logprobs["tokens"]  # fmt: skip


async def test_offsets_go_on_through_a_stream(client: AsgiClient) -> None:
    whole = (await ask(client, logprobs=0)).json()["choices"][0]["logprobs"]["text_offset"]
    events = (await ask(client, logprobs=0, stream=True)).events()
    found = [item["choices"][0]["logprobs"] for item in events[:-1]]
    assert [at for logprobs in found if logprobs for at in logprobs["text_offset"]] == whole


async def test_the_chosen_token_is_always_among_the_likeliest(client: AsgiClient, plane: FakePlane) -> None:
    async def unlikely(request: Generate) -> AsyncGenerator[Chunk, None]:
        token = TokenLogprob(1, b"odd", -9.0, ((2, b"even", -0.1),))
        yield Chunk("odd", (1,), (token,), FinishReason.STOP, Usage(1, 1))

    plane.script = unlikely
    (choice,) = (await ask(client, logprobs=1)).json()["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"even": -0.1, "odd": -9.0}]


def test_characters_are_counted_where_they_begin() -> None:
    assert characters("aé€😀".encode()) == 4
    assert [characters(bytes([byte])) for byte in "é".encode()] == [1, 0]
