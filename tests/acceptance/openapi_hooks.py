"""What schemathesis, as a program of its own, has to know of the server it tries: which models there are, what no
schema can say of a request, and that an answer in full length proves nothing more than a short one."""

from __future__ import annotations

from typing import Any

import schemathesis

LANGUAGE, TENSOR = "smollm2", "minilm"
TEXT = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a fish"]}
EMBEDDING = {"url": "/v1/embeddings", "body": {"model": TENSOR, "input": "a fish"}}
UNKNOWN = "x-schemathesis-unknown-property"
REFUSED = ("functions", "modalities", "audio", "tools", "tool_choice", "echo", "suffix", "best_of")


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """A header that nobody knows is no fault of a request."""
    return UNKNOWN not in (case.headers or ())


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    name_what_there_is(case.path_parameters)
    for header in ("x-deadline-ms", "inference-header-content-length"):  # 1 ms, and JSON that ends elsewhere
        if str((case.headers or dict[str, Any]()).get(header, "")).isdigit():
            del case.headers[header]
    body: Any = case.body
    if isinstance(body, dict):
        if is_meant_to_be_right(case):
            make_sense(case.path, body)
        if isinstance(body.get("model"), str) and body["model"]:
            body["model"] = TENSOR if case.path == "/v1/embeddings" else LANGUAGE
            keep_short(body)


def is_meant_to_be_right(case: schemathesis.Case[Any]) -> bool:
    return case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE


def name_what_there_is(parameters: dict[str, Any]) -> None:
    for name, value in (("model", TENSOR), ("version", "1")):
        if parameters.get(name):
            parameters[name] = value


def make_sense(path: str, body: dict[str, Any]) -> None:
    """Some fields have to fit each other, or the model."""
    for name in REFUSED:
        body.pop(name, None)
    if path == "/v1/chat/completions":
        body["messages"] = [{"role": "user", "content": "Name a fish."}]
    elif path == "/v1/jobs":
        body.update(EMBEDDING)
    elif path.endswith("/infer"):
        body.update(inputs=[TEXT], outputs=None)
        if body.get("parameters"):
            body["parameters"]["timeout"] = None


def keep_short(body: dict[str, Any]) -> None:
    """What is wrong stays wrong."""
    for name in ("max_tokens", "max_completion_tokens", "n"):
        given = body.get(name)
        if given is None or (isinstance(given, int) and given > 1):
            body[name] = 1
