"""A grammar, in llguidance's Lark notation, that lets a model call tools as they are declared and in no other way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shoal.api.openai.schema import FunctionBody
from shoal.types import TOOL_CALL_BEGIN, TOOL_CALL_END

#: llguidance's options for a schema, which it reads from the schema itself. White space is as Python writes JSON: what
#: the models have seen most. Without ``lenient`` it refuses keywords that it cannot enforce.
_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


def calls_alone(functions: Sequence[FunctionBody], most: int) -> str:
    """One to ``most`` calls, and nothing else."""
    return f"start: {_quoted(TOOL_CALL_BEGIN)} calls\n" + _calls(functions, most)


def calls_or_text(functions: Sequence[FunctionBody], most: int) -> str:
    """Any text, in which the mark of a call begins one. After the calls the answer ends."""
    # A lazy lexeme ends with the first mark, so text cannot hold one.
    return (
        f"start: TEXT | text_to_mark calls\ntext_to_mark[lazy]: TEXT {_quoted(TOOL_CALL_BEGIN)}\nTEXT: /(.|\\n)*/\n"
    ) + _calls(functions, most)


def calls_or_json(functions: Sequence[FunctionBody], most: int, schema: dict[str, Any]) -> str:
    """Calls, or JSON of this schema."""
    return (f"start: {_quoted(TOOL_CALL_BEGIN)} calls | content\ncontent: {_json(schema, lenient=False)}\n") + _calls(
        functions, most
    )


def _calls(functions: Sequence[FunctionBody], most: int) -> str:
    """``calls``: all of them behind the mark that the first begins with."""
    more = f' ("\\n" {_quoted(TOOL_CALL_BEGIN)} call){{0,{most - 1}}}' if most > 1 else ""
    rules = [f"calls: call{more}", f'call: "\\n" body {_quoted(chr(10) + TOOL_CALL_END)}']
    rules.append("body: " + " | ".join(f"body_{at}" for at in range(len(functions))))
    for at, function in enumerate(functions):
        head = f'{{"name": "{function.name}", "arguments": '
        rules.append(f'body_{at}: {_quoted(head)} arguments_{at} "}}"')
        rules.append(f"arguments_{at}: {_json(_arguments(function), lenient=not function.strict)}")
    return "\n".join(rules) + "\n"


def _arguments(function: FunctionBody) -> dict[str, Any]:
    # Arguments are an object whatever the schema leaves open.
    return {"type": "object"} | function.parameters if function.parameters else _NO_PARAMETERS


def _json(schema: dict[str, Any], *, lenient: bool) -> str:
    return "%json " + json.dumps(schema | {"x-guidance": _OPTIONS | {"lenient": lenient}})


def _quoted(text: str) -> str:
    return json.dumps(text)
