"""What a stream of server-sent events brought, and when."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

_DATA: Final = b"data:"
_END: Final = b"[DONE]"


class Stream(NamedTuple):
    outcome: str  # "ok", the code of its error, or what is wrong with it
    times: tuple[float, ...]  # when pieces came that brought something of the answer
    usage: dict[str, Any]


def read_stream(body: bytes, parts: Sequence[tuple[float, int]]) -> Stream:
    """``parts``: of each piece of the body, when it came and how long the body was with it.

    The event that says who speaks and the one that says what was used are no tokens: they are not in the times. Several
    events in one piece are one time, for a client sees them at once. Raises :class:`msgspec.DecodeError`, KeyError,
    TypeError, AttributeError for events of another shape.
    """
    ends = [end for _, end in parts]
    pieces: dict[int, None] = {}
    usage: dict[str, Any] = {}
    finished = False
    for end, data in _events(body):
        if finished := data == _END:
            break
        event = msgspec.json.decode(data)
        if "error" in event:
            return Stream(str(event["error"].get("code")), (), {})
        usage = event.get("usage") or usage
        if any(map(_brings_something, event["choices"])):
            pieces[bisect_left(ends, end)] = None
    outcome = "ok" if finished else "unfinished_stream"
    return Stream(outcome, tuple(parts[piece][0] for piece in pieces), usage)


def _events(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The data of each event, with how long the body is with it."""
    end = 0
    for line in body.splitlines(keepends=True):
        if line.startswith(_DATA):
            yield end + len(line.rstrip()), line.removeprefix(_DATA).strip()
        end += len(line)


def _brings_something(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text")) or any(value for name, value in delta.items() if name != "role")
