from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from shoal.api.testing import JSON_ANSWER, Answer, AsgiClient, FakePlane
from shoal.errors import EngineFailed, Overloaded
from shoal.messages import Chunk, Generate
from shoal.types import ChatMessage, ChatPrompt, FinishReason, Grammar, Sampling, TokenLogprob, Usage

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 5}


async def ask(client: AsgiClient, **fields: Any) -> Answer:
    return await client.request("POST", "/v1/chat/completions", json=CHAT | fields)


async def asked(client: AsgiClient, plane: FakePlane, **fields: Any) -> Generate:
    """What the data plane is asked."""
    answer = await ask(client, **fields)
    assert answer.status == 200, answer.body
    return plane.generated[-1]


def text_of(events: list[Any], index: int = 0) -> str:
    choices = [choice for item in events if item != "[DONE]" for choice in item["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices if choice["index"] == index)


async def test_a_chat_is_answered_whole(client: AsgiClient) -> None:
    answer = await client.request("POST", "/v1/chat/completions", json=CHAT, headers={"x-request-id": "r1"})
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert body["id"] == "chatcmpl-r1"
    assert body["object"] == "chat.completion"
    assert body["model"] == "smollm2"
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert len(choice["message"]["content"].split()) == 4
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    assert body["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_a_stream_begins_with_the_role_and_ends_with_done(client: AsgiClient) -> None:
    answer = await ask(client, stream=True)
    events = answer.events()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[0]["object"] == "chat.completion.chunk"
    assert all("role" not in item["choices"][0]["delta"] for item in events[1:-1])
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert [item["choices"][0]["finish_reason"] for item in events[:-2]] == [None] * (len(events) - 2)
    assert events[-1] == "[DONE]"
    assert all("usage" not in item for item in events[:-1])


async def test_a_stream_says_the_same_as_a_whole_answer(client: AsgiClient) -> None:
    whole = (await ask(client)).json()["choices"][0]["message"]["content"]
    assert text_of((await ask(client, stream=True)).events()) == whole


async def test_a_stream_tells_its_usage_when_asked(client: AsgiClient) -> None:
    events = (await ask(client, stream=True, stream_options={"include_usage": True})).events()
    assert all(item["usage"] is None for item in events[:-2])
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["total_tokens"] == 11
    assert events[-1] == "[DONE]"


async def test_a_chunk_without_text_yet_sends_nothing(client: AsgiClient, plane: FakePlane) -> None:
    async def lagging(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("", (1,))
        yield Chunk("", (2,))
        yield Chunk("é", (3,), (), FinishReason.STOP, Usage(1, 3))

    plane.script = lagging
    events = (await ask(client, stream=True)).events()
    assert [item["choices"][0]["delta"] for item in events[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "é"},
    ]


async def test_parameters_reach_the_data_plane(client: AsgiClient, plane: FakePlane) -> None:
    request = await asked(
        client,
        plane,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        logit_bias={"7": -100, "8": 2.5},
        ignore_eos=True,
        stop=["a", "b"],
    )
    assert request.sampling == Sampling(
        max_tokens=4,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=1.1,
        logit_bias={7: -100.0, 8: 2.5},
        seed=5,
        stop=("a", "b"),
        ignore_eos=True,
    )
    assert request.grammar is None


async def test_null_means_the_default(client: AsgiClient, plane: FakePlane) -> None:
    names = ("temperature", "top_p", "stop", "logit_bias", "n", "stream", "response_format", "tools", "max_tokens")
    request = await asked(client, plane, **dict.fromkeys(names))
    assert request.sampling == Sampling(seed=5)


async def test_unknown_fields_are_ignored(client: AsgiClient) -> None:
    assert (await ask(client, user="me", metadata={"a": 1}, store=False, reasoning_effort="low")).status == 200


async def test_one_stop_string_may_come_without_a_list(client: AsgiClient, plane: FakePlane) -> None:
    assert (await asked(client, plane, stop="END")).sampling.stop == ("END",)


async def test_a_stop_string_ends_the_answer(client: AsgiClient) -> None:
    text = (await ask(client)).json()["choices"][0]["message"]["content"]
    stop = text.split()[1]
    (choice,) = (await ask(client, stop=stop)).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == text[: text.index(stop)]


async def test_max_completion_tokens_wins_over_max_tokens(client: AsgiClient, plane: FakePlane) -> None:
    assert (await asked(client, plane, max_completion_tokens=2)).sampling.max_tokens == 2


async def test_vllms_top_k_of_minus_one_is_off(client: AsgiClient, plane: FakePlane) -> None:
    assert (await asked(client, plane, top_k=-1)).sampling.top_k == 0


async def test_a_seed_that_was_not_given_is_left_to_the_data_plane(client: AsgiClient, plane: FakePlane) -> None:
    assert (await asked(client, plane, seed=None)).sampling.seed is None


@pytest.mark.parametrize(("given", "seed"), [(0, 0), (2**63 - 1, 2**63 - 1), (-1, 2**63 - 1), (-(2**63), 0)])
async def test_every_64_bit_seed_is_taken(client: AsgiClient, plane: FakePlane, given: int, seed: int) -> None:
    assert (await asked(client, plane, seed=given)).sampling.seed == seed


async def test_n_answers_come_from_n_seeds_and_keep_their_order(client: AsgiClient, plane: FakePlane) -> None:
    body = (await ask(client, n=3, seed=2**63 - 2)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
    assert [request.sampling.seed for request in plane.generated] == [2**63 - 2, 2**63 - 1, 0]
    assert len({request.request_id for request in plane.generated}) == 3
    assert body["usage"]["prompt_tokens"] == 7, "the prompt counts once"
    assert body["usage"]["completion_tokens"] == 12


async def test_the_first_of_n_answers_is_the_only_one_of_one(client: AsgiClient) -> None:
    one = (await ask(client)).json()["choices"][0]["message"]["content"]
    assert (await ask(client, n=2)).json()["choices"][0]["message"]["content"] == one


async def test_n_streams_are_merged_by_index(client: AsgiClient) -> None:
    whole = [choice["message"]["content"] for choice in (await ask(client, n=3)).json()["choices"]]
    events = (await ask(client, n=3, stream=True, stream_options={"include_usage": True})).events()
    assert [text_of(events, index) for index in range(3)] == whole
    roles = [item["choices"][0]["index"] for item in events[:-2] if "role" in item["choices"][0]["delta"]]
    assert sorted(roles) == [0, 1, 2]
    assert events[-2]["usage"]["completion_tokens"] == 12


async def test_a_failing_choice_fails_the_request_and_ends_the_others(client: AsgiClient, plane: FakePlane) -> None:
    async def second_fails(request: Generate) -> AsyncGenerator[Chunk, None]:
        if request.sampling.seed == 6:
            raise EngineFailed("out of luck")
        while True:
            yield Chunk("x", (1,))

    plane.script = second_fails
    answer = await ask(client, n=3)
    assert answer.status == 500
    assert answer.json()["error"]["code"] == "engine_failed"
    assert not plane.running


async def test_logprobs_have_tokens_bytes_and_alternatives(client: AsgiClient) -> None:
    (choice,) = (await ask(client, logprobs=True, top_logprobs=2, max_tokens=1)).json()["choices"]
    (token,) = choice["logprobs"]["content"]
    assert token["token"] == choice["message"]["content"]
    assert bytes(token["bytes"]).decode() == token["token"]
    assert token["logprob"] == -0.25
    assert [top["logprob"] for top in token["top_logprobs"]] == [-0.25, -1.25]
    assert choice["logprobs"]["refusal"] is None


async def test_streamed_logprobs_are_those_of_the_whole_answer(client: AsgiClient) -> None:
    whole = (await ask(client, logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    events = (await ask(client, logprobs=True, stream=True)).events()
    streamed = [
        token for item in events[:-1] for token in (item["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == whole
    assert len(whole) == 4


async def test_a_token_that_is_part_of_a_character_is_written_as_bytes(client: AsgiClient, plane: FakePlane) -> None:
    async def halves(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("", (1,), (TokenLogprob(1, b"\xc3", float("-inf")),))
        yield Chunk("é", (2,), (TokenLogprob(2, b"\xa9", -1.0),), FinishReason.STOP, Usage(1, 2))

    plane.script = halves
    (choice,) = (await ask(client, logprobs=True)).json()["choices"]
    first, second = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "é"
    assert (first["token"], first["bytes"], first["logprob"]) == ("\\xc3", [0xC3], -9999.0)
    assert second["bytes"] == [0xA9]
    events = (await ask(client, logprobs=True, stream=True)).events()
    assert text_of(events) == "é"


async def test_text_parts_are_joined(client: AsgiClient, plane: FakePlane) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
    request = await asked(client, plane, messages=messages)
    assert request.prompt == ChatPrompt((ChatMessage("system", "be kind"), ChatMessage("user", "one\ntwo")))


SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            Grammar("json_schema", msgspec.json.encode(SCHEMA).decode()),
        ),
        (
            {"structured_outputs": {"json": SCHEMA}},
            Grammar("json_schema", msgspec.json.encode(SCHEMA).decode(), param="structured_outputs"),
        ),
        ({"structured_outputs": {"regex": "[0-9]+"}}, Grammar("regex", "[0-9]+", param="structured_outputs")),
        (
            {"structured_outputs": {"grammar": 'start: "a"'}},
            Grammar("lark", 'start: "a"', param="structured_outputs"),
        ),
    ],
)
async def test_formats_become_grammars(
    client: AsgiClient, plane: FakePlane, fields: dict[str, Any], grammar: Grammar | None
) -> None:
    assert (await asked(client, plane, **fields)).grammar == grammar


async def test_a_json_answer_arrives_as_it_was_made(client: AsgiClient) -> None:
    body = (await ask(client, max_tokens=None, response_format={"type": "json_object"})).json()
    assert body["choices"][0]["message"]["content"] == JSON_ANSWER


async def test_an_error_before_the_first_token_has_its_status_even_in_a_stream(
    client: AsgiClient, plane: FakePlane
) -> None:
    async def full(request: Generate) -> AsyncGenerator[Chunk, None]:
        if request.model == "smollm2":
            raise Overloaded("all seats are taken", retry_after=0.2)
        yield Chunk("", ())

    plane.script = full
    answer = await ask(client, stream=True)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "overloaded"


async def test_a_full_server_always_says_when_to_come_back(client: AsgiClient, plane: FakePlane) -> None:
    async def full(request: Generate) -> AsyncGenerator[Chunk, None]:
        if request.model == "smollm2":
            raise Overloaded("nobody knows for how long")
        yield Chunk("", ())

    plane.script = full
    answer = await ask(client)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")


@pytest.mark.parametrize("n", [1, 2])
async def test_an_error_within_a_stream_is_its_last_event(client: AsgiClient, plane: FakePlane, n: int) -> None:
    async def breaks(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("so far", (1,))
        raise EngineFailed("the engine broke")

    plane.script = breaks
    answer = await ask(client, stream=True, n=n)
    events = answer.events()
    assert answer.status == 200
    assert events[-1]["error"]["code"] == "engine_failed"
    assert events[-1]["error"]["retryable"] is True
    assert "[DONE]" not in events
    assert not plane.running


@pytest.mark.parametrize("n", [1, 2])
async def test_a_generation_that_was_cancelled_elsewhere_fails_the_request(
    client: AsgiClient, plane: FakePlane, n: int
) -> None:
    async def orphaned(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("so far", (1,))
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    plane.script = orphaned
    assert (await ask(client, n=n)).json()["error"]["code"] == "engine_failed"


async def test_an_answer_that_never_finishes_is_an_error(client: AsgiClient, plane: FakePlane) -> None:
    async def unfinished(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk("so far", (1,))

    plane.script = unfinished
    assert (await ask(client)).json()["error"]["code"] == "engine_failed"
    assert (await ask(client, stream=True)).events()[-1]["error"]["code"] == "engine_failed"


async def test_the_deadline_header_reaches_the_data_plane(client: AsgiClient, plane: FakePlane) -> None:
    await client.request("POST", "/v1/chat/completions", json=CHAT, headers={"x-deadline-ms": "2500"})
    await ask(client)
    assert plane.timeouts == [2.5, None]
