"""However a model's text is cut, the same calls come out of it."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.api.openai.tool_parser import Arguments, CallBegan, Part, Text, ToolCallParser

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "sea"}}\n</tool_call>'


def read(pieces: Iterable[str]) -> tuple[str, list[tuple[str, str]]]:
    """What a client puts together: the content, and each call's name and arguments."""
    parser = ToolCallParser()
    parts: list[Part] = [part for piece in pieces for part in parser.feed(piece)]
    parts += parser.finish()
    names = [part.name for part in parts if isinstance(part, CallBegan)]
    arguments = [
        "".join(part.text for part in parts if isinstance(part, Arguments) and part.call == at)
        for at in range(len(names))
    ]
    return "".join(part.text for part in parts if isinstance(part, Text)), list(zip(names, arguments, strict=True))


def cut(text: str, at: Iterable[int]) -> list[str]:
    ends = [*sorted(at), len(text)]
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


fragments = st.sampled_from(
    [
        CALL,
        "<tool_call>",
        "</tool_call>",
        '{"name": "f", "arguments": {',
        "}",
        "{",
        '"',
        "\\",
        "\n",
        " ",
        "<",
        "tool",
        "é",
    ]
)


@given(text=st.lists(fragments | st.text(max_size=3), max_size=8).map("".join), data=st.data())
def test_the_cuts_do_not_matter(text: str, data: st.DataObject) -> None:
    at = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert read(cut(text, at)) == read([text]) == read(text)


@given(st.text() | st.lists(st.sampled_from(["<tool_call", "<", " ", "\n", "a", ">", "x"]), max_size=9).map("".join))
@example("a <tool_call")
@example("  \n")
def test_text_without_a_call_is_as_it_was(text: str) -> None:
    if "<tool_call>" not in text:
        assert read(text) == (text, [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    calls=st.lists(
        st.tuples(
            st.from_regex("[a-zA-Z0-9_-]{1,64}", fullmatch=True),
            st.dictionaries(st.text(max_size=5), json_values, max_size=3),
        ),
        max_size=3,
    ),
    text=st.sampled_from(["", "Let me look.", "1 < 2"]),
    gap=st.sampled_from(["", "\n", " \n "]),
)
def test_every_call_comes_out_as_it_was_written(
    calls: list[tuple[str, dict[str, object]]], text: str, gap: str
) -> None:
    written = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    marked = [f'<tool_call>\n{{"name": "{name}", "arguments": {body}}}\n</tool_call>' for name, body in written]
    assert read(gap.join([text, *marked]) if calls else text) == (text, written)


def test_nothing_of_a_mark_is_told_before_it_is_known() -> None:
    parser = ToolCallParser()
    assert parser.feed("Look: <tool_") == [Text("Look:")]
    assert parser.feed("box>") == [Text(" <tool_box>")]
    assert parser.feed("\n\n<tool_call>\n") == []
    assert parser.feed('{"name": "look", "argum') == []
    assert parser.feed('ents": {"a') == [CallBegan(0, "look"), Arguments(0, '{"a')]
    assert (parser.open, parser.calls) == (True, 0)
    assert parser.feed('": 1}}\n</tool_call>') == [Arguments(0, '": 1}')]
    assert (parser.open, parser.calls) == (False, 1)
    assert parser.feed("\n") == parser.finish() == []


def test_the_marks_within_arguments_are_arguments() -> None:
    arguments = json.dumps({"a": '}</tool_call>\\"<tool_call>{', "b": [{}]})
    assert read([f'<tool_call>{{"name":"f","arguments":{arguments}}}</tool_call>']) == ("", [("f", arguments)])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"a": [1,', ("", [("f", '{"a": [1,')])),
        ('<tool_call>\n{"name": "f", "arguments": {}', ("", [("f", "{}")])),
        ('<tool_call>\n{"name": "f', ('<tool_call>\n{"name": "f', [])),
        (f"{CALL} and more", (" and more", [("look", '{"at": "sea"}')])),
        ('<tool_call>{"name": "f", "arguments": {}}{', ("{", [("f", "{}")])),
        ("<tool_call>" + "x" * 300, ("<tool_call>" + "x" * 300, [])),
    ],
)
def test_what_is_cut_or_wrong_is_told_as_far_as_it_goes(text: str, found: tuple[str, list[tuple[str, str]]]) -> None:
    assert read(text) == found
