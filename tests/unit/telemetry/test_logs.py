from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.telemetry.logs import MAX_TEXT, REDACTED, ConsoleFormatter, JsonFormatter, configure_logging


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("shoal.worker").makeRecord(
        "shoal.worker", logging.INFO, "file.py", 1, message, args, None, extra=extra
    )


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def failed_record() -> logging.LogRecord:
    made = record("it failed")
    try:
        raise ValueError("first\n12:00:00.000 info    forged\nauthorization: Bearer abc")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root, shoal = logging.getLogger(), logging.getLogger("shoal")
    before = root.handlers[:], root.level, shoal.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    shoal.setLevel(before[2])


def test_a_record_is_one_object_with_its_fields() -> None:
    made = record("loaded %s", "fish", action="model_loaded", seconds=1.5, models=("a", "b"))
    made.created = 1700000000.25
    assert as_json(made) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "info",
        "logger": "shoal.worker",
        "message": "loaded fish",
        "action": "model_loaded",
        "seconds": 1.5,
        "models": ["a", "b"],
    }


def test_a_record_is_one_short_line_for_people() -> None:
    line = ConsoleFormatter().format(record("loaded %s", "fish", action="model_loaded", seconds=1.5))
    assert line.split(" ", 1)[1] == "info    worker  loaded fish  seconds=1.5"


def test_a_field_that_the_message_says_already_is_left_out_for_people_alone() -> None:
    made = record("fish-1 is ready", worker="fish-1", state="read", code=1)
    assert ConsoleFormatter().format(made).endswith("fish-1 is ready  state=read code=1")
    assert as_json(made)["worker"] == "fish-1"


def test_a_field_cannot_pass_for_the_time_or_the_level() -> None:
    assert as_json(record("hello", time="yesterday", level="error"))["level"] == "info"


@pytest.mark.parametrize(
    "name",
    ["authorization", "Authorization", "api_key", "api-key", "x-api-key", "openai_api_key", "password", "cookie"],
)
def test_a_field_that_holds_a_secret_is_left_out_wherever_it_is(name: str) -> None:
    made = record("asked", **{name: "s3cret"}, headers={name: "s3cret", "list": [{name: "s3cret"}]}, tokens=12)
    found = as_json(made)
    assert found[name] == REDACTED
    assert found["headers"] == {name: REDACTED, "list": [{name: REDACTED}]}
    assert found["tokens"] == 12
    assert "s3cret" not in ConsoleFormatter().format(made)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("got Authorization: Bearer s3cret, then more", f"got Authorization: Bearer {REDACTED}, then more"),
        ("got Authorization: s3cret", f"got Authorization: {REDACTED}"),
        ('{"api_key": "s3cret"}', f'{{"api_key": "{REDACTED}"}}'),
        ("GET /x?api_key=s3cret&y=1", f"GET /x?api_key={REDACTED}&y=1"),
        ("bearer s3cret", f"bearer {REDACTED}"),
        ("64 tokens: 12 cached", "64 tokens: 12 cached"),
        ("the bear is a secret", "the bear is a secret"),
    ],
)
def test_a_secret_in_text_is_left_out(text: str, left: str) -> None:
    assert as_json(record("%s", text))["message"] == left
    assert left in ConsoleFormatter().format(record("%s", text))
    assert as_json(record("asked", detail=text))["detail"] == left


def test_a_traceback_is_kept_and_no_line_of_it_passes_for_a_record() -> None:
    assert "forged" in as_json(failed_record())["exception"]
    first, *others = ConsoleFormatter().format(failed_record()).split("\n")
    assert first.endswith("it failed")
    assert all(line.startswith("    | ") for line in others)
    assert not any("abc" in line for line in others)


@given(st.text(), st.text())
def test_whatever_is_logged_is_one_printable_line(message: str, value: str) -> None:
    made = record("%s", message, detail=value, deep={value: [value]})
    as_json(made)
    assert len(ConsoleFormatter().format(made).splitlines()) == 1


def test_bytes_that_were_no_text_and_odd_values_can_be_logged() -> None:
    found = as_json(
        record("file %s", "\udcff", number=float("nan"), thing=ValueError("x"), path={1: {2: {3: {4: {}}}}})
    )
    assert found["message"] == "file \\udcff"
    assert found["thing"] == "x"


def test_a_value_has_a_longest_length() -> None:
    assert len(as_json(record("x" * 100_000))["message"]) == MAX_TEXT


@pytest.mark.usefixtures("logging_as_before")
def test_configuring_twice_logs_once_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "console")
    configure_logging("info", "json")
    logging.getLogger("shoal.worker").info("hello", extra={"action": "greet"})
    logging.getLogger("shoal.worker").debug("too fine")
    logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("somebody.else").warning("trouble")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [json.loads(line)["message"] for line in captured.err.splitlines()] == ["hello", "trouble"]
