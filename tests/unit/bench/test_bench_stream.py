from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.bench.stream import read_stream

DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [], **fields}).encode() + b"\n\n"


def chat(**delta: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": delta}])


def pieces(*bodies: bytes) -> tuple[bytes, list[tuple[float, int]]]:
    """A body that came in these pieces, one a second."""
    ends = [sum(map(len, bodies[: number + 1])) for number in range(len(bodies))]
    return b"".join(bodies), [(float(number), end) for number, end in enumerate(ends)]


def test_who_speaks_and_what_was_used_are_no_tokens() -> None:
    used = {"completion_tokens": 2}
    stream = read_stream(*pieces(chat(role="assistant", content=""), chat(content="a"), chat(content="b"), DONE))
    assert stream == ("ok", (1.0, 2.0), {})
    stream = read_stream(*pieces(event(choices=[{"text": "a"}]), event(usage=used), DONE))
    assert stream == ("ok", (0.0,), used)


def test_a_call_of_a_tool_is_something() -> None:
    assert read_stream(*pieces(chat(tool_calls=[{"index": 0}]), DONE)).times == (0.0,)


def test_events_that_come_together_are_one_time() -> None:
    assert read_stream(*pieces(chat(content="a") + chat(content="b"), chat(content="c"), DONE)).times == (0.0, 1.0)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_an_event_has_come_with_its_last_piece(line_end: bytes) -> None:
    whole = chat(content="slow").replace(b"\n", line_end)
    assert read_stream(*pieces(whole[:10], whole[10:-1], whole[-1:], DONE)).times == (1.0,)


def test_a_stream_without_its_end_is_unfinished_and_one_with_an_error_has_its_code() -> None:
    assert read_stream(*pieces(chat(content="a"))).outcome == "unfinished_stream"
    assert read_stream(b"", []).outcome == "unfinished_stream"
    assert read_stream(*pieces(chat(content="a"), event(error={"code": "worker_lost"}), DONE)).outcome == "worker_lost"
