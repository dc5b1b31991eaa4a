"""What the grammars of tools let a model write, with a vocabulary of single bytes."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.api.openai.schema import FunctionBody
from shoal.api.openai.tool_grammar import calls_alone, calls_or_json, calls_or_text
from shoal.engines.toy import EOS, VOCAB_SIZE, ToyTokenizer
from shoal.errors import InvalidRequest
from shoal.types import Grammar
from shoal.worker.generation import constraint
from shoal.worker.generation.constraint import Constraint, GrammarCompiler

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = FunctionBody(name="weather", parameters=CITY)
CLOCK = FunctionBody(name="clock")
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
TEXT = "It rains <b>in</b> Paris."


@pytest.fixture(autouse=True)
def _no_grammar_is_tried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes a process each; those that need it are with the integration tests."""
    monkeypatch.setattr(constraint, "try_out", lambda grammar, source, limits: 0)


def compiled(source: str) -> Constraint:
    return GrammarCompiler(ToyTokenizer(), VOCAB_SIZE).compile(Grammar("lark", source, param="tools"))


def accepts(source: str, text: str) -> bool:
    """May a model write this, and then end?"""
    constraint = compiled(source)
    for token in text.encode():
        if constraint.complete or not constraint.allowed()[token]:
            return False
        constraint.advance(token)
    return constraint.complete or bool(constraint.allowed()[EOS])


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (PARIS, True),
        (NOW, True),
        (f"{PARIS}\n{NOW}", True),
        (f"{PARIS}\n{NOW}\n{PARIS}", False),
        ("", False),
        (TEXT, False),
        (f"{TEXT}\n{PARIS}", False),
        (f"{PARIS} {TEXT}", False),
        (PARIS.replace("weather", "clock"), False),
        (PARIS.replace("weather", "whether"), False),
        (PARIS.replace('"Paris"', "3"), False),
        (PARIS.replace("city", "town"), False),
    ],
)
def test_where_a_call_is_required_nothing_else_can_be_written(text: str, accepted: bool) -> None:
    assert accepts(calls_alone([WEATHER, CLOCK], 2), text) == accepted


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("", True),
        (TEXT, True),
        ("<tool_cal", True),
        (PARIS, True),
        (f"{TEXT}\n{PARIS}\n{NOW}", True),
        ("<tool_call> is a mark", False),
        (PARIS.replace("city", "town"), False),
        (f"{PARIS} {TEXT}", False),
    ],
)
def test_where_a_call_is_possible_text_is_free_until_one_begins(text: str, accepted: bool) -> None:
    assert accepts(calls_or_text([WEATHER, CLOCK], 2), text) == accepted


@pytest.mark.parametrize(("text", "accepted"), [('{"a": 1}', True), (PARIS, True), (TEXT, False), ('{"b": 1}', False)])
def test_a_call_can_stand_in_place_of_a_structured_answer(text: str, accepted: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    assert accepts(calls_or_json([WEATHER], 1, schema), text) == accepted


def test_the_answer_ends_with_its_only_call() -> None:
    constraint = compiled(calls_alone([WEATHER], 1))
    for token in PARIS.encode():
        assert not constraint.complete
        constraint.advance(token)
    assert constraint.complete


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        ({}, "{}"),
        ({"properties": {"a": {"type": "integer"}}}, '{"a": 1}'),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "required": ["a"]}}}, '{"a": [null]}'),
        ({"properties": {"a": {"oneOf": [{"type": "string"}, {"type": "integer"}]}}}, '{"a": 1}'),
        ({"properties": {"a": {"type": "string", "format": "phone"}}}, '{"a": "1"}'),
    ],
)
def test_schemas_are_taken_as_clients_write_them(parameters: dict[str, Any], arguments: str) -> None:
    source = calls_alone([FunctionBody(name="f", parameters=parameters)], 1)
    assert accepts(source, f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>')
    assert not accepts(source, '<tool_call>\n{"name": "f", "arguments": 1}\n</tool_call>')


@pytest.mark.parametrize(
    "function",
    [
        FunctionBody(name="f", parameters={"properties": {"a": {"type": "string", "format": "phone"}}}, strict=True),
        FunctionBody(name="f", parameters={"properties": {"a": {"$ref": "https://example.com/a"}}}),
        FunctionBody(name="f", parameters={"properties": {"a": 3}}),
    ],
)
def test_a_schema_that_cannot_be_held_is_refused(function: FunctionBody) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiled(calls_alone([function], 1))
    assert caught.value.param == "tools"
