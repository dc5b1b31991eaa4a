"""The ``openai`` package for Python, unmodified."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

ASK: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Name three fish."}],
    "max_tokens": 12,
    "temperature": 0,
    "seed": 7,
}
WARM = ASK | {"temperature": 1.5}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "fish": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "fish"],
    "additionalProperties": False,
}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 20},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers",
            "parameters": {
                "type": "object",
                "properties": {name: {"type": "integer", "minimum": 0, "maximum": 999} for name in "ab"},
                "required": ["a", "b"],
                "additionalProperties": False,
            },
        },
    },
]
CALL_ONE: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": TOOLS,
    "parallel_tool_calls": False,
    "max_tokens": 120,
    "temperature": 0,
    "seed": 7,
}


def called(message: Any) -> list[Any]:
    return list(message.tool_calls or [])


def text(client: OpenAI, **fields: Any) -> str:
    content = client.chat.completions.create(**(ASK | fields)).choices[0].message.content
    assert content
    return str(content)


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert {"smollm2", "minilm"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("smollm2").object == "model"


def test_a_chat_is_answered(client: OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer._request_id


def test_text_parts_and_a_system_message_are_understood(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "Name"}, {"type": "text", "text": "three fish."}]
    assert text(client, messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])


def test_a_stream_says_the_same_as_a_whole_answer_and_its_usage(client: OpenAI) -> None:
    whole = client.chat.completions.create(**ASK)
    stream = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_clients_own_accumulator_understands_the_stream(client: OpenAI) -> None:
    stop = text(client).split()[1]  # it refuses answers that were cut at max_tokens
    with client.chat.completions.stream(**ASK, stop=stop, logprobs=True) as stream:
        (choice,) = stream.get_final_completion().choices
    assert choice.message.content == text(client, stop=stop)
    assert choice.logprobs is not None
    assert choice.logprobs.content


def test_leaving_a_stream_does_not_disturb_the_next_request(client: OpenAI) -> None:
    with client.chat.completions.create(**(ASK | {"max_tokens": 500}), stream=True) as stream:
        next(iter(stream))
    assert text(client)


def test_a_stop_string_ends_the_answer_before_it(client: OpenAI) -> None:
    whole = text(client)
    stop = whole.split()[1]
    (choice,) = client.chat.completions.create(**ASK, stop=[stop, "never said"]).choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == whole[: whole.index(stop)]


def test_a_stop_string_never_shows_in_a_stream(client: OpenAI) -> None:
    whole = text(client)
    stop = whole[len(whole) // 2 :][:3]  # wherever tokens begin and end
    stream = client.chat.completions.create(**ASK, stop=stop, stream=True)
    streamed = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    assert streamed == whole[: whole.index(stop)]


def test_a_seed_makes_an_answer_repeatable(client: OpenAI) -> None:
    one, two = (client.chat.completions.create(**WARM).choices[0].message.content for _ in range(2))
    other = client.chat.completions.create(**(WARM | {"seed": 8})).choices[0].message.content
    assert one == two
    assert one != other


def test_n_answers_differ_and_the_first_is_that_of_the_seed(client: OpenAI) -> None:
    answer = client.chat.completions.create(**WARM, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    alone = client.chat.completions.create(**WARM).choices[0].message.content
    assert answer.choices[0].message.content == alone


def test_n_streams_carry_their_index(client: OpenAI) -> None:
    whole = client.chat.completions.create(**WARM, n=2)
    texts = ["", ""]
    for chunk in client.chat.completions.create(**WARM, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_logprobs_have_tokens_and_alternatives(client: OpenAI) -> None:
    (choice,) = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2).choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    said = b"".join(bytes(token.bytes or []) for token in tokens)
    assert said.decode(errors="replace").startswith(choice.message.content or "?")
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
        assert token.token == token.top_logprobs[0].token, "greedy takes the likeliest"


@pytest.mark.parametrize("stream", [False, True])
def test_a_json_schema_is_obeyed(client: OpenAI, stream: bool) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "shoal", "schema": SCHEMA, "strict": True}}
    fields = ASK | {"max_tokens": 100, "response_format": format_}
    if stream:
        chunks = client.chat.completions.create(**fields, stream=True)
        content = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    else:
        content = text(client, **fields)
    found = json.loads(content)
    assert found.keys() == {"name", "fish"}
    assert isinstance(found["name"], str)
    assert isinstance(found["fish"], int)


def test_a_required_call_fits_its_function(client: OpenAI) -> None:
    answer = client.chat.completions.create(**CALL_ONE, tool_choice="required")
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = called(choice.message)
    arguments = json.loads(call.function.arguments)
    assert call.function.name in ("get_weather", "add")
    assert arguments.keys() == ({"city", "unit"} if call.function.name == "get_weather" else {"a", "b"})


def test_a_named_function_is_the_one_that_is_called(client: OpenAI) -> None:
    fields = CALL_ONE | {"tool_choice": {"type": "function", "function": {"name": "add"}}}
    (choice,) = client.chat.completions.create(**fields).choices
    (call,) = called(choice.message)
    assert call.function.name == "add"
    assert all(isinstance(value, int) for value in json.loads(call.function.arguments).values())


def test_where_no_function_helps_the_answer_is_text(client: OpenAI) -> None:
    ask = CALL_ONE | {"messages": [{"role": "user", "content": "Say hello."}]}
    for choice in ("auto", "none"):
        (answered,) = client.chat.completions.create(**ask, tool_choice=choice).choices
        assert answered.message.content
        assert not answered.message.tool_calls
        assert answered.finish_reason in ("stop", "length")


def test_a_streamed_call_is_the_whole_one_in_pieces(client: OpenAI) -> None:
    whole = client.chat.completions.create(**CALL_ONE, tool_choice="required").choices[0]
    with client.chat.completions.stream(**CALL_ONE, tool_choice="required") as stream:
        (choice,) = stream.get_final_completion().choices
    (streamed,), (call,) = called(choice.message), called(whole.message)
    assert choice.finish_reason == "tool_calls"
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)
    chunks = list(client.chat.completions.create(**CALL_ONE, tool_choice="required", stream=True))
    pieces = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    assert pieces[0].id
    assert len(pieces) > 3
    assert all(piece.index == 0 for piece in pieces)


def test_the_result_of_a_call_is_read(client: OpenAI) -> None:
    message = client.chat.completions.create(**CALL_ONE, tool_choice="required").choices[0].message
    (call,) = called(message)
    history = [
        *CALL_ONE["messages"],
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny and 21 degrees celsius"},
    ]
    (choice,) = client.chat.completions.create(**(CALL_ONE | {"messages": history})).choices
    assert choice.message.content
    assert "21" in choice.message.content


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tool_choice": {"type": "function", "function": {"name": "sing"}}}, "tool_choice.function.name"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages[0].tool_call_id"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/x"}}}]}, "tools"),
        ({"extra_body": {"structured_outputs": {"regex": "a"}}}, "structured_outputs"),
    ],
)
def test_a_wrong_tool_is_a_bad_request_error(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**(CALL_ONE | fields))
    assert str(error.value.param).startswith(param)


def test_vllms_extensions_are_understood(client: OpenAI) -> None:
    assert text(client, extra_body={"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1})


def test_completions_go_on_with_their_prompts(client: OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2", prompt=["The sea is", "A fish can"], max_tokens=5, temperature=0, logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.text
        assert choice.logprobs is not None
        assert choice.logprobs.tokens
        assert choice.logprobs.text_offset is not None
        assert choice.logprobs.text_offset[0] == 0
    stream = client.completions.create(model="smollm2", prompt="The sea is", max_tokens=5, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_embeddings_are_the_same_as_numbers_and_as_base64(client: OpenAI) -> None:
    texts = ["one fish", "two fish"]
    packed = client.embeddings.create(model="minilm", input=texts)  # the package asks for base64 by itself
    plain = client.embeddings.create(model="minilm", input=texts, encoding_format="float")
    vectors = np.array([item.embedding for item in plain.data])
    assert [item.index for item in plain.data] == [0, 1]
    assert vectors.shape == (2, 384)
    assert np.allclose(vectors, [item.embedding for item in packed.data], atol=1e-5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2)


async def test_many_clients_at_once_get_their_own_answers(server_url: str) -> None:
    async with AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        asked = [client.chat.completions.create(**(WARM | {"seed": seed})) for seed in (1, 2, 1, 2, 1, 2)]
        answers = [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]
    assert answers[0::2] == [answers[0]] * 3
    assert answers[1::2] == [answers[1]] * 3


def test_an_unknown_model_is_a_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(**(ASK | {"model": "nobody"}))
    assert error.value.code == "model_not_found"
    assert error.value.request_id


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_wrong_request_is_a_bad_request_error_that_names_the_field(
    client: OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**(ASK | fields))
    assert error.value.param == param


def test_a_wrong_stream_is_an_error_too(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**(ASK | {"model": "nobody"}), stream=True)


def test_a_prompt_longer_than_the_context_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        text(client, messages=[{"role": "user", "content": "fish " * 50_000}])
    assert error.value.code == "context_length_exceeded"


def test_embedding_nothing_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model="minilm", input="")
    assert error.value.param == "input"
