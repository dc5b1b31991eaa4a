"""Tools told in plain words, for models whose chat template has no place for them.

They and how to call them stand in the system message, a call is text of the assistant's, a result text of the user's:
the notation that Hermes and Qwen were trained on. Every template can say that, and small models follow it best
with a grammar that leaves them no choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shoal.errors import InvalidRequest
from shoal.types import TOOL_CALL_BEGIN, TOOL_CALL_END, ChatMessage, Tool, ToolCall

_PREAMBLE = """\
You can call functions. Each line between <tools> and </tools> describes one, its parameters as a JSON schema:
<tools>
{tools}
</tools>
To call a function, answer with its name and its arguments as one JSON object, like this:
{example}
The next message then brings the result. Answer in plain text when no function helps."""


def has_place_for_tools(template: str | None) -> bool:
    """Does the template present tools itself, in the notation that answers are read in?"""
    return template is not None and "tools" in template and TOOL_CALL_BEGIN in template and '"arguments"' in template


def in_plain_words(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[ChatMessage]:
    """The same conversation without tools, calls and messages of tools."""
    plain = list(_without_calls(messages))
    if not tools:
        return plain
    preamble = _preamble(tools)
    if plain and plain[0].role == "system":
        return [ChatMessage("system", f"{plain[0].content}\n\n{preamble}"), *plain[1:]]
    return [ChatMessage("system", preamble), *plain]


def describe(tool: Tool) -> dict[str, Any]:
    """The tool as OpenAI's API and the templates of transformers have it. Raises
    :class:`~shoal.errors.InvalidRequest` for parameters that are not JSON."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        try:
            function["parameters"] = msgspec.json.decode(tool.parameters)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(
                f"tools: the parameters of {tool.name} are not JSON: {error}", param="tools"
            ) from error
    return {"type": "function", "function": function}


def _without_calls(messages: Sequence[ChatMessage]) -> Iterable[ChatMessage]:
    results: list[str] = []  # in a row they make one message: many templates want the roles to take turns
    for message in messages:
        if message.role == "tool":
            results.append(f"<tool_response>\n{message.content}\n</tool_response>")
            continue
        if results:
            yield ChatMessage("user", "\n".join(results))
            results.clear()
        calls = [_write(call) for call in message.tool_calls]
        yield ChatMessage(message.role, "\n".join(filter(None, [message.content, *calls])))
    if results:
        yield ChatMessage("user", "\n".join(results))


def _preamble(tools: Sequence[Tool]) -> str:
    lines = "\n".join(json.dumps(describe(tool), ensure_ascii=False) for tool in tools)
    example = f'{TOOL_CALL_BEGIN}\n{{"name": "FUNCTION", "arguments": {{"PARAMETER": "VALUE"}}}}\n{TOOL_CALL_END}'
    return _PREAMBLE.format(tools=lines, example=example)


def _write(call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{TOOL_CALL_BEGIN}\n{{"name": {name}, "arguments": {call.arguments}}}\n{TOOL_CALL_END}'
