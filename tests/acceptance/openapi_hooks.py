"""What schemathesis, as a program of its own, has to know of the server it tries: which models there are, and that
an answer in full length proves nothing more than a short one."""

from __future__ import annotations

from typing import Any

import schemathesis

LANGUAGE, TENSOR = "smollm2", "minilm"


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    if isinstance(case.path_parameters, dict) and case.path_parameters.get("model"):
        case.path_parameters["model"] = TENSOR
        if case.path_parameters.get("version"):
            case.path_parameters["version"] = "1"
    if case.headers and str(case.headers.get("x-deadline-ms", "")).isdigit():
        del case.headers["x-deadline-ms"]  # whoever gives 1 ms gets the answer 504, which is right
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"]:
        body["model"] = TENSOR if case.path == "/v1/embeddings" else LANGUAGE
        if case.path != "/v1/embeddings" and isinstance(body.get("max_tokens"), int | None):
            body["max_tokens"] = min(body.get("max_tokens") or 2, 2)
            body.pop("max_completion_tokens", None) if isinstance(body.get("max_completion_tokens"), int) else None
