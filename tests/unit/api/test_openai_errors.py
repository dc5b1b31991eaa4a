"""Whatever a client sends, it gets an answer that says what was wrong, whose fault it was and whether to retry."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal.api.limits import ApiLimits
from shoal.api.openai.errors import error_body
from shoal.api.testing import Answer, AsgiClient
from shoal.errors import CODES

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "smollm2", "prompt": "hi"}
DEEP = b"[" * 100_000 + b"]" * 100_000


def refused(answer: Answer, param: str | None) -> None:
    assert answer.status == 400, answer.body
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert (error["fault"], error["retryable"]) == ("client", False)
    assert error["message"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        msgspec.json.encode(CHAT | TEXT | {"input": "hi"}) + b" and more",
        b"\xef\xbb\xbf{}",
        b'{"model": NaN}',
        b'{"temperature": NaN, "model": "smollm2"}',
        b'{"temperature": -Infinity}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        DEEP,
        b'{"x": ' + DEEP + b"}",
        b"null",
        b"[]",
        b'"text"',
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_a_body_that_is_not_a_json_object_is_refused(client: AsgiClient, path: str, body: bytes) -> None:
    refused(await client.request("POST", path, body=body), None)


MANY = [{"role": "user", "content": "x"}] * (ApiLimits().messages + 1)
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": MANY}, "messages"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [CHAT["messages"][0], {"role": 7}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": 10**30}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, "logit_bias"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs"),
    ],
)
async def test_a_wrong_chat_is_refused_by_the_name_of_the_field(
    client: AsgiClient, fields: dict[str, Any], param: str
) -> None:
    refused(await client.request("POST", "/v1/chat/completions", json=CHAT | fields), param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [[1], [1.5]]}, "prompt[1][0]"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 16}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
    ],
)
async def test_a_wrong_completion_is_refused_by_the_name_of_the_field(
    client: AsgiClient, fields: dict[str, Any], param: str
) -> None:
    refused(await client.request("POST", "/v1/completions", json=TEXT | fields), param)


async def test_a_schema_nested_too_deeply_is_refused(client: AsgiClient) -> None:
    """At every depth around the limit of recursion, reading or writing: refused or taken, never a failure."""
    start, end = '{"model": "smollm2", "prompt": "x", "structured_outputs": {"json": ', "}}"
    found = set()
    for depth in range(100, 2000, 3):
        body = start + '{"a":' * depth + "1" + "}" * depth + end
        found.add((await client.request("POST", "/v1/completions", body=body.encode())).status)
    assert found == {200, 400}


@pytest.mark.parametrize("kind", CODES.values(), ids=lambda kind: kind.code)
def test_every_error_says_whose_fault_it_was_and_whether_to_retry(kind: Any) -> None:
    error = msgspec.json.decode(error_body(kind("why", param="field"), "r1"))["error"]
    assert error == {
        "message": "why",
        "type": {"client": "invalid_request_error", "capacity": "rate_limit_error", "server": "server_error"}[
            kind.fault
        ],
        "param": "field",
        "code": kind.code,
        "fault": kind.fault,
        "retryable": kind.retryable,
        "request_id": "r1",
    }


async def test_an_unknown_model_is_404(client: AsgiClient) -> None:
    answer = await client.request("POST", "/v1/chat/completions", json=CHAT | {"model": "gpt-9"})
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["param"] == "model"
