"""The shapes of requests and answers that several servers share."""

from __future__ import annotations

from typing import Any


def tensor(numbers: list[int]) -> Any:
    """The Open Inference Protocol's."""
    return {"inputs": [{"name": "input", "shape": [len(numbers)], "datatype": "INT64", "data": numbers}]}


def output(answer: Any) -> Any:
    return answer["outputs"][0]["data"]


def data(numbers: list[int]) -> Any:
    return {"data": numbers}


def same(answer: Any) -> Any:
    return answer["data"]
