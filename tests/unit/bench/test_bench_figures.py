from __future__ import annotations

import random
from typing import Any

import pytest

from shoal.bench import SCENARIOS, Open, Record, Replay, Run, compare, parse_trace, render, summarise
from shoal.bench.report import plot
from shoal.bench.scenario import Sizes
from shoal.bench.summary import rate_over_time
from shoal.errors import ConfigError


def run(*records: Record, **changes: Any) -> Run:
    fields: dict[str, Any] = {"scenario": "chat", "load": "8 clients", "url": "http://x", "started": "now"}
    return Run(**{**fields, "duration": 10.0, "machine": {"cpus": 2}, "records": records, **changes})


def test_what_was_not_answered_well_counts_as_a_request_and_as_nothing_else() -> None:
    summary = summarise(
        run(
            Record(0.0, 0.0, 1.0, "ok", 0.2, (0.1, 0.3), tokens=3),
            Record(0.0, 0.0, 3.0, "ok", 0.4, (0.2,), tokens=2),
            Record(0.0, 0.0, 9.0, "429"),
        )
    )
    assert (summary.requests, summary.ok, summary.outcomes) == (3, 2, {"ok": 2, "429": 1})
    assert (summary.requests_per_second, summary.tokens_per_second) == (0.2, 0.5)
    assert summary.latency is not None
    assert (summary.latency.p50, summary.latency.max) == (2.0, 3.0)
    assert summary.first_token is not None
    assert summary.first_token.mean == pytest.approx(0.3)
    assert summary.token_gap is not None
    assert summary.token_gap.p50 == pytest.approx(0.2)


def test_latency_counts_from_when_the_request_should_have_been_sent() -> None:
    assert Record(due=1.0, sent=4.0, ended=5.0, outcome="ok").latency == 4.0


def test_an_empty_run_has_no_quantiles() -> None:
    summary = summarise(run(duration=0.0))
    assert (summary.latency, summary.requests_per_second) == (None, 0)
    assert rate_over_time([], 0.0) == []


def test_the_rate_over_time_has_every_good_answer_in_it() -> None:
    records = [Record(0.0, 0.0, at, "ok") for at in (0.5, 9.9, 10.0)] + [Record(0.0, 0.0, 5.0, "500")]
    rates = rate_over_time(records, 10.0, bins=10)
    assert [rate for _, rate in rates] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]


def test_an_open_load_has_the_rate_that_was_asked_for() -> None:
    arrivals = list(Open(rate=50, duration=100).arrivals(random.Random(0)))
    assert arrivals == sorted(arrivals)
    assert 4700 < len(arrivals) < 5300
    assert all(0 < at < 100 for at in arrivals)


def test_two_runs_are_compared_by_ratio_where_both_have_the_figure() -> None:
    first = summarise(run(Record(0.0, 0.0, 2.0, "ok")))
    second = summarise(run(Record(0.0, 0.0, 1.0, "ok", 0.5), duration=5.0))
    ratios = {row.what: row.ratio for row in compare(first, second)}
    assert ratios == {"requests/s": 2.0, "answered well": 1.0, "latency p50, ms": 0.5, "latency p99, ms": 0.5}


def test_a_trace_is_read_in_the_order_of_its_times() -> None:
    replay = parse_trace([b'{"at": 2.5, "prompt_tokens": 7}', b"", b'{"at": 0}'])
    assert isinstance(replay, Replay)
    assert [(item.at, item.prompt_tokens) for item in replay.items] == [(0.0, None), (2.5, 7)]
    assert replay.duration == 2.5


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([b'{"at": 1}', b"nonsense"], "line 2"),
        ([b'{"prompt_tokens": 1}'], "at"),
        ([b'{"at": -1}'], "below 0"),
        ([b"\xff"], "line 1"),
        ([b" "], "empty"),
    ],
)
def test_what_is_wrong_with_a_trace_is_said_with_its_line(lines: list[bytes], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_trace(lines)


def test_the_page_needs_nothing_else_and_escapes_what_came_from_outside() -> None:
    page = render(run(Record(0.0, 0.0, 1.0, "ok", 0.1), Record(0.0, 0.0, 1.0, "<script>"), url="http://x/<b>"))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 3
    assert "http://x/&lt;b&gt;" in page
    assert "src=" not in page


def test_nothing_is_drawn_of_nothing() -> None:
    assert plot([], "s", "1/s") == ""
    assert "nan" not in plot([(0.0, 0.0)], "s", "1/s")


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_requests_differ_from_one_another_and_come_again_the_same(name: str) -> None:
    body = SCENARIOS[name].body
    sizes = Sizes(prompt_tokens=20, rows=2)
    assert body("m", 1, sizes) == body("m", 1, sizes) != body("m", 2, sizes)


def test_a_shared_prefix_is_shared_and_the_rest_is_not() -> None:
    sizes = Sizes(prompt_tokens=30, shared_prefix=20)
    first, second = (SCENARIOS["completion"].body("m", number, sizes)["prompt"].split() for number in (1, 2))
    assert len(first) == 30
    assert first[:20] == second[:20]
    assert first[20:] != second[20:]
