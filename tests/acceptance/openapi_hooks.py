"""What schemathesis, as a program of its own, has to know of the server it tries: which models there are, and that
an answer in full length proves nothing more than a short one."""

from __future__ import annotations

from typing import Any

import schemathesis

LANGUAGE, TENSOR = "smollm2", "minilm"


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    name_what_there_is(case.path_parameters)
    if str((case.headers or {}).get("x-deadline-ms", "")).isdigit():
        del case.headers["x-deadline-ms"]  # whoever gives 1 ms gets the answer 504, which is right
    body: Any = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"]:
        body["model"] = TENSOR if case.path == "/v1/embeddings" else LANGUAGE
        keep_short(body)


def name_what_there_is(parameters: dict[str, Any]) -> None:
    for name, value in (("model", TENSOR), ("version", "1")):
        if parameters.get(name):
            parameters[name] = value


def keep_short(body: dict[str, Any]) -> None:
    """What is wrong stays wrong."""
    for name in ("max_tokens", "max_completion_tokens"):
        given = body.get(name)
        if given is None or (isinstance(given, int) and given > 2):
            body[name] = 2
