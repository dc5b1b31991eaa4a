"""No body, however odd, is answered with a 5xx or with anything but JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.api.app import build_app
from shoal.api.openai.schema import ChatBody, CompletionBody, EmbeddingBody
from shoal.api.testing import Answer, AsgiClient, FakePlane

ENDPOINTS: dict[str, tuple[type[msgspec.Struct], dict[str, Any]]] = {
    "/v1/chat/completions": (ChatBody, {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}),
    "/v1/completions": (CompletionBody, {"model": "smollm2", "prompt": "hi"}),
    "/v1/embeddings": (EmbeddingBody, {"model": "minilm", "input": "hi"}),
}
WORDS = ["role", "content", "type", "text", "user", "json_schema", "schema", "json_object", "regex", "include_usage"]
WORDS += ["function", "name", "parameters", "arguments", "tool", "id", "tool_call_id", "tool_calls", "auto", "required"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def ask(path: str, body: bytes) -> Answer:
    client = AsgiClient(build_app(FakePlane(), metrics=bytes))
    return asyncio.run(client.request("POST", path, body=body))


def is_sound(answer: Answer) -> None:
    assert answer.status < 500, answer.body
    if answer.status == 200:
        return
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code", "fault", "retryable", "request_id"}
    assert error["message"]


@given(path=st.sampled_from(list(ENDPOINTS)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_odd_fields_are_refused_or_served(path: str, data: st.DataObject) -> None:
    body, sound = ENDPOINTS[path]
    fields = data.draw(st.dictionaries(st.sampled_from(body.__struct_fields__), values, max_size=3))
    is_sound(ask(path, msgspec.json.encode(sound | fields)))


@given(path=st.sampled_from(list(ENDPOINTS)), body=st.binary(max_size=64) | values.map(msgspec.json.encode))
@settings(max_examples=100, deadline=None)
def test_odd_bodies_are_refused(path: str, body: bytes) -> None:
    is_sound(ask(path, body))


@given(path=st.sampled_from(list(ENDPOINTS)), data=st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_bodies_are_refused_or_served(path: str, data: st.DataObject) -> None:
    body = bytearray(msgspec.json.encode(ENDPOINTS[path][1]))
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=3)):
        body[at] = data.draw(st.integers(0, 255))
    is_sound(ask(path, bytes(body)))
