"""Tools of a chat request: what the model is told of them, and what it may answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from shoal.api.limits import ApiLimits
from shoal.api.openai.parameters import grammar_of
from shoal.api.openai.schema import (
    ChatBody,
    FunctionBody,
    JsonObjectFormat,
    JsonSchemaFormat,
    MessageBody,
    NamedTool,
)
from shoal.api.openai.tool_grammar import calls_alone, calls_or_json, calls_or_text
from shoal.errors import InvalidRequest
from shoal.types import Grammar, Tool


@dataclass(frozen=True, slots=True)
class ToolUse:
    """``tools`` are shown to the model; ``grammar`` holds its answer to what may be called."""

    tools: tuple[Tool, ...] = ()
    grammar: Grammar | None = None


def tool_use(body: ChatBody, limits: ApiLimits) -> ToolUse:
    """Raises :class:`InvalidRequest` that names the field."""
    if body.functions:
        raise InvalidRequest("functions: not supported any more, use tools", param="functions")
    functions = [tool.function for tool in body.tools or ()]
    if not functions and body.tool_choice not in (None, "none", "auto"):
        raise InvalidRequest("tool_choice needs tools", param="tool_choice")
    _check(functions, limits)
    if not functions or body.tool_choice == "none":
        return ToolUse(grammar=grammar_of(body))
    if body.structured_outputs is not None:
        raise InvalidRequest("structured_outputs and tools exclude each other", param="structured_outputs")
    return ToolUse(tuple(_tool(function) for function in functions), _grammar(body, functions, limits))


def check_results(messages: Sequence[MessageBody]) -> None:
    """Every result of a tool answers a call that was made before. Raises :class:`InvalidRequest`."""
    called: set[str] = set()
    for at, message in enumerate(messages):
        if message.tool_calls and message.role != "assistant":
            where = f"messages[{at}].tool_calls"
            raise InvalidRequest(f"{where}: only an assistant calls tools", param=where)
        called.update(call.id for call in message.tool_calls or ())
        if message.role == "tool" and message.tool_call_id not in called:
            where = f"messages[{at}].tool_call_id"
            raise InvalidRequest(f"{where} is not the id of a tool call before it", param=where)


def _grammar(body: ChatBody, functions: Sequence[FunctionBody], limits: ApiLimits) -> Grammar:
    most = 1 if body.parallel_tool_calls is False else limits.tool_calls
    match body.tool_choice:
        case NamedTool(function=named):
            chosen = [function for function in functions if function.name == named.name]
            if not chosen:
                where = "tool_choice.function.name"
                raise InvalidRequest(f"{where}: {named.name} is not one of the tools", param=where)
            source = calls_alone(chosen, 1)
        case "required":
            source = calls_alone(functions, most)
        case _:
            source = _calls_or_answer(body, functions, most)
    return Grammar("lark", source, param="tools")


def _calls_or_answer(body: ChatBody, functions: Sequence[FunctionBody], most: int) -> str:
    match body.response_format:
        case JsonSchemaFormat(json_schema=demanded):
            return calls_or_json(functions, most, demanded.schema)
        case JsonObjectFormat():
            return calls_or_json(functions, most, {"type": "object"})
        case _:
            return calls_or_text(functions, most)


def _check(functions: Sequence[FunctionBody], limits: ApiLimits) -> None:
    if len(functions) > limits.tools:
        raise InvalidRequest(f"tools: at most {limits.tools}", param="tools")
    names: set[str] = set()
    size = 0
    for at, function in enumerate(functions):
        where = f"tools[{at}].function"
        if function.name in names:
            raise InvalidRequest(f"{where}.name: there is another tool {function.name}", param=f"{where}.name")
        names.add(function.name)
        _check_schema(function, f"{where}.parameters")
        size += len(msgspec.json.encode(function))
        if size > limits.tool_bytes:
            raise InvalidRequest(f"tools: at most {limits.tool_bytes} bytes together", param="tools")


def _check_schema(function: FunctionBody, where: str) -> None:
    kind = (function.parameters or {}).get("type", "object")
    if kind != "object":
        raise InvalidRequest(f"{where}.type must be object", param=f"{where}.type")


def _tool(function: FunctionBody) -> Tool:
    parameters = "" if function.parameters is None else msgspec.json.encode(function.parameters).decode()
    return Tool(function.name, function.description or "", parameters)
