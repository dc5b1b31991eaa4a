from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal.engines.toy import EOS, VOCAB_SIZE, ToyTokenizer
from shoal.errors import InvalidRequest
from shoal.types import FinishReason, Grammar
from shoal.worker.generation import constraint
from shoal.worker.generation.constraint import MAX_KEPT_SIZE, MAX_SOURCE, Constraint, GrammarCompiler

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"enum": ["ada", "bob"]}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
        "additionalProperties": False,
    }
)


def compile_grammar(grammar: Grammar, *, vocab_size: int = VOCAB_SIZE) -> Constraint:
    return GrammarCompiler(ToyTokenizer(), vocab_size).compile(grammar)


def allowed(constraint: Constraint) -> set[int]:
    return {int(token) for token in np.flatnonzero(constraint.allowed())}


def test_the_mask_says_what_may_come_next_and_the_end_what_is_complete() -> None:
    constraint = compile_grammar(Grammar("regex", "ab?"))
    states = [(allowed(constraint), constraint.complete)]
    for token in b"ab":
        constraint.advance(token)
        states.append((allowed(constraint), constraint.complete))
    assert states == [({ord("a")}, False), ({ord("b"), EOS}, False), ({EOS}, True)]


def test_the_end_of_sequence_completes_a_grammar_that_could_go_on() -> None:
    constraint = compile_grammar(Grammar("regex", "a+"))
    constraint.advance(ord("a"))
    constraint.advance(EOS)
    assert constraint.complete


def test_tokens_beyond_the_tokenizer_are_never_allowed() -> None:
    constraint = compile_grammar(Grammar("regex", "(?s:.*)"), vocab_size=VOCAB_SIZE + 63)
    mask = constraint.allowed()
    assert mask.shape == (VOCAB_SIZE + 63,)
    assert not mask[VOCAB_SIZE:].any()


def test_the_state_follows_from_the_tokens_alone() -> None:
    grammar = Grammar("json_schema", SCHEMA)
    one, other = compile_grammar(grammar), compile_grammar(grammar)
    for token in b'{"name":"a':
        one.allowed()
        one.advance(token)
    for token in b'{"name":"a':
        other.advance(token)
    assert allowed(one) == allowed(other) == {ord("d")}


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar("json_schema", '{"type": "nonsense"}'), "nonsense"),
        (Grammar("json_schema", f'{{"maximum": {2**70}}}'), "json_schema is not usable: .* 1180591620717411303424"),
        (Grammar("json_schema", "{"), "not JSON"),
        (Grammar("json_schema", "[1]"), "not a JSON object"),
        (Grammar("json_schema", '{"$ref": "https://example.org/schema"}'), "example.org"),
        (Grammar("json_schema", '{"not":' * 900 + "{}" + "}" * 900), "json_schema"),
        (Grammar("json_schema", '{"not":' * 9000 + "{}" + "}" * 9000), "json_schema"),
        (Grammar("json_schema", " " * (MAX_SOURCE + 1)), f"larger than {MAX_SOURCE} bytes"),
        (Grammar("regex", "(a"), "unclosed"),
        (Grammar("lark", "start: nothing"), "nothing"),
    ],
)
def test_what_cannot_be_compiled_is_the_clients_mistake(grammar: Grammar, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        compile_grammar(grammar)
    assert refused.value.param == "response_format"


def test_an_expression_that_would_take_seconds_is_given_up() -> None:
    with pytest.raises(InvalidRequest, match="too many expressions"):
        compile_grammar(Grammar("regex", "(a{1000}){1000}{1000}")).advance(ord("a"))


def test_a_grammar_is_compiled_once_and_each_answer_has_its_own_state() -> None:
    compiler = GrammarCompiler(ToyTokenizer(), VOCAB_SIZE)
    grammar = Grammar("regex", "ab", param="guided_regex")
    assert compiler.known(grammar) is None
    compiler.compile(grammar).advance(ord("a"))
    one, other = compiler.known(grammar), compiler.known(grammar)
    assert one is not None
    assert other is not None
    one.advance(ord("a"))
    assert (allowed(one), allowed(other)) == ({ord("b")}, {ord("a")})
    assert one.param == "guided_regex"
    assert compiler.known(Grammar("lark", "ab")) is None


def test_only_the_grammars_that_were_used_last_and_are_small_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(ToyTokenizer(), VOCAB_SIZE)
    sizes = {"a": 1, "b": 1, "c": MAX_KEPT_SIZE + 1, "d": 1}
    monkeypatch.setattr(constraint, "MAX_KEPT", 2)
    monkeypatch.setattr(constraint, "try_out", lambda grammar, source, limits: sizes[grammar.source])
    for source in "abcad":
        known = compiler.known(Grammar("regex", source)) or compiler.compile(Grammar("regex", source))
        assert allowed(known) == {ord(source)}
    assert [compiler.known(Grammar("regex", source)) is not None for source in "abcd"] == [True, False, False, True]


def test_a_token_that_was_not_allowed_is_refused() -> None:
    constraint = compile_grammar(Grammar("regex", "a"))
    with pytest.raises(InvalidRequest):
        constraint.advance(ord("b"))


def test_without_the_library_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InvalidRequest, match="llguidance"):
        compile_grammar(Grammar("json_object"))


def test_a_model_without_an_end_cannot_end_a_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyTokenizer, "eos_ids", frozenset())
    with pytest.raises(InvalidRequest, match="end-of-sequence"):
        compile_grammar(Grammar("json_object"))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_an_answer_obeys_its_schema_and_stops_when_it_is_complete(
    serve: Callable[..., Any], temperature: float
) -> None:
    answer = await serve().ask("who?", grammar=Grammar("json_schema", SCHEMA), temperature=temperature)
    assert answer.finish_reason is FinishReason.STOP
    assert answer.text in [f'{{"name":"{name}","old":{old}}}' for name in ("ada", "bob") for old in ("true", "false")]


async def test_a_grammar_that_could_go_on_ends_with_the_end_of_sequence(serve: Callable[..., Any]) -> None:
    answer = await serve().ask("how?", grammar=Grammar("regex", "[a-f]{3}x*"), temperature=2.0, logit_bias={EOS: 50.0})
    assert answer.finish_reason is FinishReason.STOP
    assert re.fullmatch("[a-f]{3}x*", answer.text)
    assert answer.tokens[-1] == EOS


async def test_constrained_and_free_answers_run_side_by_side(serve: Callable[..., Any]) -> None:
    server = serve()
    free = await server.ask("free", max_tokens=20)
    together = await asyncio.gather(
        server.ask("free", max_tokens=20), server.ask("n", grammar=Grammar("lark", 'start: "yes" | "no"'))
    )
    assert together[0].tokens == free.tokens
    assert together[1].text in ("yes", "no")


async def test_an_invalid_schema_is_refused_before_it_takes_a_place(serve: Callable[..., Any]) -> None:
    server = serve()
    with pytest.raises(InvalidRequest):
        await server.ask("who?", grammar=Grammar("json_schema", "{"))
    assert not server.engine.steps
