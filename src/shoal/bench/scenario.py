"""What is asked: bodies for each kind of request, and whether an answer is right."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec

_TEXT: Final = (
    "sea tide wave reef coral kelp sand shore deep current storm calm salt foam drift harbour anchor sail mast keel "
    "herring cod tuna salmon trout perch pike eel ray shark whale seal otter gull tern crab squid prawn mussel clam"
)
_WORDS: Final = _TEXT.split()


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large requests are. A word of a prompt is one to two tokens."""

    prompt_tokens: int = 100
    max_tokens: int = 64
    rows: int = 1
    shared_prefix: int = 0  # the first words of every prompt that are the same


@dataclass(frozen=True, slots=True)
class Scenario:
    path: str
    streams: bool
    body: Callable[[str, int, Sizes], Any]  # model, number of the request, sizes
    check: Callable[[Any, Sizes], bool]  # is this decoded answer right?


def _text(number: int, words: int, shared: int = 0) -> str:
    own = random.Random(number)
    prefix = random.Random(-1).choices(_WORDS, k=min(shared, words))
    return " ".join([*prefix, *own.choices(_WORDS, k=max(0, words - len(prefix)))])


def _chat(model: str, number: int, sizes: Sizes) -> Any:
    return {
        "model": model,
        "messages": [{"role": "user", "content": _text(number, sizes.prompt_tokens, sizes.shared_prefix)}],
        "max_tokens": sizes.max_tokens,
        "temperature": 0,
        "ignore_eos": True,  # every answer is as long as was asked for, or servers could not be compared
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _completion(model: str, number: int, sizes: Sizes) -> Any:
    body = _chat(model, number, sizes)
    return {**body, "prompt": body.pop("messages")[0]["content"]}


def _embeddings(model: str, number: int, sizes: Sizes) -> Any:
    texts = [_text(number * sizes.rows + row, sizes.prompt_tokens) for row in range(sizes.rows)]
    return {"model": model, "input": texts, "encoding_format": "base64"}


def _infer(model: str, number: int, sizes: Sizes) -> Any:
    data = [number % 97 + row for row in range(sizes.rows)]
    return {"inputs": [{"name": "input", "shape": [sizes.rows], "datatype": "INT64", "data": data}]}


def _has_embeddings(answer: Any, sizes: Sizes) -> bool:
    return len(answer["data"]) == sizes.rows and all(item["embedding"] for item in answer["data"])


SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        "chat": Scenario("/v1/chat/completions", True, _chat, lambda answer, sizes: True),
        "completion": Scenario("/v1/completions", True, _completion, lambda answer, sizes: True),
        "embeddings": Scenario("/v1/embeddings", False, _embeddings, _has_embeddings),
        "infer": Scenario(
            "/v2/models/{model}/infer",
            False,
            _infer,
            lambda answer, sizes: len(answer["outputs"][0]["data"]) == sizes.rows,
        ),
    }
)


def encode(scenario: Scenario, model: str, number: int, sizes: Sizes) -> bytes:
    return msgspec.json.encode(scenario.body(model, number, sizes))
