"""Grammars that are compiled once in a process that may die of it, before they are compiled here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.api.limits import ApiLimits
from shoal.api.openai.schema import FunctionBody
from shoal.api.openai.tool_grammar import calls_or_text
from shoal.engines.toy import VOCAB_SIZE, ToyTokenizer
from shoal.errors import InvalidRequest, Overloaded
from shoal.types import Grammar
from shoal.worker.generation import trial
from shoal.worker.generation.constraint import Constraint, GrammarCompiler

SCHEMA = '{"type": "object", "properties": {"name": {"enum": ["ada", "bob"]}, "old": {"type": "boolean"}}}'


def compile_grammar(grammar: Grammar) -> Constraint:
    return GrammarCompiler(ToyTokenizer(), VOCAB_SIZE).compile(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_object"),
        Grammar("json_schema", SCHEMA),
        Grammar("regex", "[a-f]{3}x*"),
        Grammar("lark", 'start: "yes" | "no"'),
    ],
    ids=lambda grammar: grammar.kind,
)
def test_what_clients_ask_for_passes_and_is_kept(grammar: Grammar) -> None:
    compiler = GrammarCompiler(ToyTokenizer(), VOCAB_SIZE)
    assert compiler.compile(grammar).allowed().any()
    assert compiler.known(grammar) is not None


def test_as_many_tools_as_a_request_may_have_pass() -> None:
    limits = ApiLimits()
    padded = {"type": "object", "properties": {"a": {"type": "string", "description": "x" * 800}}}
    functions = [FunctionBody(name=f"tool_{at}", parameters=padded) for at in range(limits.tools)]
    constraint = compile_grammar(Grammar("lark", calls_or_text(functions, limits.tool_calls), param="tools"))
    for token in b'<tool_call>\n{"name": "tool_127", "arguments": {"a": "b"}}\n</tool_call>':
        assert constraint.allowed()[token]
        constraint.advance(token)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 99_999_989},
        {"type": "integer", "multipleOf": 9_999_991, "minimum": -(10**15), "maximum": 10**15},
        {"allOf": [{"type": "integer", "multipleOf": factor} for factor in (97, 101, 103)]},
    ],
)
def test_a_schema_that_would_take_minutes_and_gigabytes_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"takes more than half a second|fuel exhausted") as refused:
        compile_grammar(Grammar("json_schema", json.dumps(schema), param="tools"))
    assert refused.value.param == "tools"


def test_a_machine_too_busy_to_try_a_grammar_out_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TIMEOUT", 0.0)
    with pytest.raises(Overloaded, match="too busy"):
        compile_grammar(Grammar("json_object"))
