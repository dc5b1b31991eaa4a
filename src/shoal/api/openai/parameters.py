"""OpenAI's parameters to the words everyone shares: sampling and grammar."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.api.limits import ApiLimits
from shoal.api.openai.schema import (
    GenerateBody,
    JsonObjectFormat,
    JsonSchemaFormat,
    StructuredOutputs,
)
from shoal.errors import InvalidRequest, invalid
from shoal.types import Grammar, Sampling

_SEED_BITS = 2**63 - 1
#: Taken as they are: Sampling has the same names and knows the ranges.
_SAME = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "ignore_eos",
)


def sampling_of(body: GenerateBody, limits: ApiLimits, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
    """Raises :class:`InvalidRequest`."""
    fields: dict[str, Any] = {
        "max_tokens": max_tokens,
        "logprobs": logprobs,
        "stop": _stop(body, limits),
        "seed": None if body.seed is None else body.seed & _SEED_BITS,
    }
    if body.top_k is not None:
        fields["top_k"] = max(body.top_k, 0)
    for name in _SAME:
        if (value := getattr(body, name)) is not None:
            fields[name] = value
    if len(fields.get("logit_bias", ())) > limits.logit_biases:
        raise InvalidRequest(f"logit_bias: at most {limits.logit_biases} tokens", param="logit_bias")
    try:
        return msgspec.convert(fields, Sampling)
    except msgspec.ValidationError as error:
        raise invalid(error) from error


def with_sample(sampling: Sampling, sample: int) -> Sampling:
    """The sampling of one of n samples: the seed of the first is the request's, the others count on from it."""
    if sample == 0 or sampling.seed is None:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + sample) & _SEED_BITS)


def grammar_of(body: GenerateBody) -> Grammar | None:
    """What ``response_format`` or ``structured_outputs`` demands. Raises :class:`InvalidRequest`."""
    constrained = isinstance(body.response_format, JsonSchemaFormat | JsonObjectFormat)
    if body.structured_outputs is not None:
        if constrained:
            raise InvalidRequest(
                "structured_outputs and response_format exclude each other", param="structured_outputs"
            )
        return _structured(body.structured_outputs)
    match body.response_format:
        case JsonSchemaFormat(json_schema=demanded):
            return _schema(demanded.schema, "response_format.json_schema.schema")
        case JsonObjectFormat():
            return Grammar("json_object")
        case _:
            return None


def _structured(outputs: StructuredOutputs) -> Grammar:
    given = [name for name in ("json", "regex", "grammar") if getattr(outputs, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            "structured_outputs needs exactly one of json, regex and grammar", param="structured_outputs"
        )
    if outputs.json is not None:
        return _schema(outputs.json, "structured_outputs.json")
    if outputs.regex is not None:
        return Grammar("regex", outputs.regex, param="structured_outputs")
    return Grammar("lark", outputs.grammar or "", param="structured_outputs")


def _schema(schema: dict[str, Any], param: str) -> Grammar:
    try:
        return Grammar("json_schema", msgspec.json.encode(schema).decode(), param=param.split(".")[0])
    except RecursionError:
        raise InvalidRequest(f"{param} is nested too deeply", param=param) from None


def _stop(body: GenerateBody, limits: ApiLimits) -> tuple[str, ...]:
    if body.stop is None:
        return ()
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if len(stops) > limits.stop_strings:
        raise InvalidRequest(f"stop: at most {limits.stop_strings} strings", param="stop")
    for stop in stops:
        if not 0 < len(stop) <= limits.stop_length:
            raise InvalidRequest(f"stop: each string has 1 to {limits.stop_length} characters", param="stop")
    return stops
