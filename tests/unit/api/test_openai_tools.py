"""Tool calls as clients of OpenAI's API see them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from shoal.api.limits import ApiLimits
from shoal.api.openai.schema import FunctionBody
from shoal.api.openai.tool_grammar import calls_alone, calls_or_json, calls_or_text
from shoal.api.testing import Answer, AsgiClient, FakePlane, Script
from shoal.messages import Chunk, Generate
from shoal.types import ChatMessage, ChatPrompt, FinishReason, Grammar, TokenLogprob, Tool, ToolCall, Usage

USER = {"role": "user", "content": "How is the weather in Paris?"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Looks out", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CHAT = {"model": "smollm2", "messages": [USER], "tools": [WEATHER, CLOCK]}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
FUNCTIONS = [FunctionBody(name="weather", description="Looks out", parameters=CITY), FunctionBody(name="clock")]
MOST = ApiLimits().tool_calls

PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


def says(text: str, reason: FinishReason = FinishReason.STOP, size: int = 5) -> Script:
    async def script(request: Generate) -> AsyncGenerator[Chunk, None]:
        for at in range(0, len(text), size):
            yield Chunk(text[at : at + size], (at,))
        yield Chunk("", (), (), reason, Usage(3, 9))

    return script


async def ask(client: AsgiClient, **fields: Any) -> Answer:
    return await client.request("POST", "/v1/chat/completions", json=CHAT | fields, headers={"x-request-id": "r"})


def assembled(events: list[Any]) -> list[tuple[str | None, list[dict[str, Any]], str | None]]:
    """Content, calls and reason of each choice, put together from a stream as clients do."""
    found: dict[int, tuple[str | None, list[dict[str, Any]], str | None]] = {}
    for choice in (choice for event in events if event != "[DONE]" for choice in event["choices"]):
        content, calls, _ = found.setdefault(choice["index"], (None, [], None))
        delta = choice["delta"]
        for part in delta.get("tool_calls", ()):
            if part["index"] == len(calls):
                calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
            else:
                assert part.keys() == {"index", "function"}
                assert part["function"].keys() == {"arguments"}
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        if delta.get("content"):
            content = (content or "") + delta["content"]
        found[choice["index"]] = content, calls, choice["finish_reason"]
    return [found[index] for index in sorted(found)]


async def test_a_call_is_answered_with_its_id_name_and_arguments(client: AsgiClient, plane: FakePlane) -> None:
    plane.script = says(PARIS)
    (choice,) = (await ask(client)).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}


@pytest.mark.parametrize("text", [PARIS, f"Let me look.\n{PARIS}\n{NOW}", "It rains. ", "a <tool_cal", PARIS[:50]])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("n", [1, 2])
async def test_a_stream_says_the_same_as_a_whole_answer(
    client: AsgiClient, plane: FakePlane, text: str, size: int, n: int
) -> None:
    plane.script = says(text, size=size)
    whole = [
        (choice["message"]["content"], choice["message"].get("tool_calls", []), choice["finish_reason"])
        for choice in (await ask(client, n=n)).json()["choices"]
    ]
    events = (await ask(client, n=n, stream=True)).events()
    assert assembled(events) == whole
    assert len(whole) == n
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}


async def test_arguments_stream_as_they_come(client: AsgiClient, plane: FakePlane) -> None:
    plane.script = says(PARIS, size=1)
    events = (await ask(client, stream=True)).events()
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    parts = [part["function"] for delta in deltas for part in delta.get("tool_calls", ())]
    assert parts[0] == {"name": "weather", "arguments": ""}
    assert [part["arguments"] for part in parts[1:]] == list('{"city": "Paris"}')
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]][-2:] == [None, "tool_calls"]


async def test_several_calls_have_ids_of_their_own_that_follow_from_the_request(
    client: AsgiClient, plane: FakePlane
) -> None:
    plane.script = says(f"{PARIS}\n{NOW}")
    first, again = [(await ask(client, n=2)).json()["choices"] for _ in range(2)]
    ids = [call["id"] for choice in first for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 4
    assert ids == [call["id"] for choice in again for call in choice["message"]["tool_calls"]]


@pytest.mark.parametrize("before", ["", f"{NOW}\n"])
@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.STOP])
async def test_a_call_that_was_cut_is_not_finished_as_one(
    client: AsgiClient, plane: FakePlane, reason: FinishReason, before: str
) -> None:
    plane.script = says(before + PARIS[:60], reason)
    (choice,) = (await ask(client)).json()["choices"]
    assert choice["finish_reason"] == reason
    assert choice["message"]["tool_calls"][-1]["function"]["arguments"] == '{"city": "Paris'


async def test_the_logprobs_of_calls_are_told_once(client: AsgiClient, plane: FakePlane) -> None:
    async def script(request: Generate) -> AsyncGenerator[Chunk, None]:
        yield Chunk(PARIS, (1,), (TokenLogprob(1, PARIS.encode(), -0.5),), FinishReason.STOP, Usage(3, 9))

    plane.script = script
    whole = (await ask(client, logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    choices = [event["choices"][0] for event in (await ask(client, logprobs=True, stream=True)).events()[:-1]]
    assert [item for choice in choices if choice["logprobs"] for item in choice["logprobs"]["content"]] == whole
    assert len(whole) == 1


async def test_text_in_place_of_a_call_is_an_ordinary_answer(client: AsgiClient, plane: FakePlane) -> None:
    plane.script = says("It rains.")
    (choice,) = (await ask(client)).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "It rains.", "refusal": None}
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
async def test_without_tools_to_call_text_is_left_as_it_is(
    client: AsgiClient, plane: FakePlane, fields: dict[str, Any]
) -> None:
    plane.script = says(PARIS)
    (choice,) = (await ask(client, **fields)).json()["choices"]
    assert choice["message"]["content"] == PARIS
    assert "tool_calls" not in choice["message"]
    assert plane.generated[0].prompt == ChatPrompt((ChatMessage("user", USER["content"]),))
    assert plane.generated[0].grammar is None


SHOWN = (Tool("weather", "Looks out", '{"type":"object","properties":{"city":{"type":"string"}}}'), Tool("clock"))
JSON = {"type": "json_object"}


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({}, lambda: calls_or_text(FUNCTIONS, MOST)),
        ({"tool_choice": "auto"}, lambda: calls_or_text(FUNCTIONS, MOST)),
        ({"parallel_tool_calls": False}, lambda: calls_or_text(FUNCTIONS, 1)),
        ({"response_format": JSON}, lambda: calls_or_json(FUNCTIONS, MOST, {"type": "object"})),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": CITY}}},
            lambda: calls_or_json(FUNCTIONS, MOST, CITY),
        ),
        ({"tool_choice": "required"}, lambda: calls_alone(FUNCTIONS, MOST)),
        ({"tool_choice": "required", "response_format": JSON}, lambda: calls_alone(FUNCTIONS, MOST)),
        (
            {"tool_choice": {"type": "function", "function": {"name": "clock"}}},
            lambda: calls_alone(FUNCTIONS[1:], 1),
        ),
    ],
)
async def test_the_choice_of_tools_becomes_a_grammar(
    client: AsgiClient, plane: FakePlane, fields: dict[str, Any], source: Callable[[], str]
) -> None:
    assert (await ask(client, **fields)).status == 200
    (request,) = plane.generated
    assert request.grammar == Grammar("lark", source(), param="tools")
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.tools == SHOWN


async def test_calls_and_results_of_earlier_turns_reach_the_model(client: AsgiClient, plane: FakePlane) -> None:
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "assistant", "content": "It rains.", "tool_calls": []},
    ]
    assert (await ask(client, messages=messages)).status == 200
    assert isinstance(plane.generated[0].prompt, ChatPrompt)
    assert plane.generated[0].prompt.messages == (
        ChatMessage("user", str(USER["content"])),
        ChatMessage("assistant", "", (ToolCall("c1", "weather", '{"city": "Paris"}'),)),
        ChatMessage("tool", "rain", (), "c1"),
        ChatMessage("assistant", "It rains."),
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "code"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a" * 65}}]}, "tools[0].function.name"),
        ({"tools": [CLOCK, CLOCK]}, "tools[1].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters.type",
        ),
        ({"tools": [{"type": "function", "function": {"name": f"f{at}"}} for at in range(129)]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "description": "x" * 2**18}}]}, "tools"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "function": {"name": "sea"}}}, "tool_choice.function.name"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"parallel_tool_calls": 3}, "parallel_tool_calls"),
        ({"messages": [USER, {"role": "tool", "content": "rain"}]}, "messages[1].tool_call_id"),
        ({"messages": [USER, {"role": "tool", "content": "rain", "tool_call_id": "c2"}]}, "messages[1].tool_call_id"),
        ({"messages": [USER, {"role": "function", "content": "rain"}]}, "messages[1].role"),
        ({"messages": [USER | {"tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
    ],
)
async def test_a_wrong_tool_is_refused_by_the_name_of_the_field(
    client: AsgiClient, fields: dict[str, Any], param: str
) -> None:
    answer = await ask(client, **fields)
    assert answer.status == 400, answer.body
    assert answer.json()["error"]["param"] == param
