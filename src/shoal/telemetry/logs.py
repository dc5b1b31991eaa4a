"""Log records as lines: short for people, JSON for programs.

A record is one line whatever was put into it: control characters are escaped, so nobody can write lines of their own
into the log through a name or an error message. Values of fields that hold secrets are left out.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from shoal.telemetry.log_limit import LogLimit

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]

REDACTED: Final = "[redacted]"
MAX_TEXT: Final = 8192  # characters of one value
_MAX_DEPTH: Final = 4  # of a structure in a field; deeper, it is written as text

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_SECRET_NAMES = (
    r"(?:proxy[-_])?authorization|(?:x[-_])?api[-_]?key|(?:set[-_])?cookie|password|secret|(?:access|auth)[-_]?token"
)
_SECRET_FIELD = re.compile(rf"(?:.*[-_.])?(?:{_SECRET_NAMES})", re.IGNORECASE)
# In text: the value behind "Bearer", or behind a telling name and a colon or equals sign, quoted or not.
_SECRET_TEXT = re.compile(
    rf"(\b(?:bearer|basic)\s+|(?:{_SECRET_NAMES})[\"']?\s*[:=]\s*[\"']?(?:bearer\s+|basic\s+)?)[^\s\"',;&]+",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure_logging(level: Level, format: Format) -> None:  # noqa: A002 (the setting's name)
    """Send the logs of this process to its standard error; what was configured before is replaced.

    ``level`` is Shoal's own; of libraries only warnings and worse are logged.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    handler.addFilter(LogLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    logging.getLogger("shoal").setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "message", "action", …}``, one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clean(record.getMessage()),
        }
        # What the record says of itself wins over a field of the same name.
        fields |= {name: value for name, value in _extra(record).items() if name not in fields}
        if record.exc_info:
            fields["exception"] = _clean(self.formatException(record.exc_info))
        return msgspec.json.encode(fields).decode()


class ConsoleFormatter(logging.Formatter):
    """``12:30:01.250 info  worker.worker  registered with coordinator-1  address=127.0.0.1:9001``."""

    def format(self, record: logging.LogRecord) -> str:
        time = _time(record).astimezone().strftime("%H:%M:%S.%f")[:-3]
        message = _one_line(_clean(record.getMessage()))
        parts = [f"{time} {record.levelname.lower():<7} {record.name.removeprefix('shoal.')}", message]
        told = {name: value for name, value in _extra(record).items() if name != "action" and not _says(message, value)}
        fields = [f"{name}={_one_line(str(value))}" for name, value in told.items()]
        if fields:
            parts.append(" ".join(fields))
        line = "  ".join(parts)
        if record.exc_info:
            # Indented, so that no line of a traceback can pass for a record.
            trace = _clean(self.formatException(record.exc_info)).split("\n")
            line += "".join(f"\n    | {_one_line(text)}" for text in trace)
        return line


def _says(message: str, value: object) -> bool:
    return isinstance(value, str) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", message) is not None


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that were given with ``extra=``."""
    return {name: _field(name, value) for name, value in vars(record).items() if name not in _OWN_FIELDS}


def _field(name: str, value: object, depth: int = 0) -> Any:
    if _SECRET_FIELD.fullmatch(name):
        return REDACTED
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        return {_clean(str(key)): _field(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and depth < _MAX_DEPTH:
        return [_field("", inner, depth + 1) for inner in value]
    return _clean(str(value))


def _clean(text: str) -> str:
    """Without secrets, not too long, and such that it can be encoded."""
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 1] + "…"
    text = text.encode(errors="backslashreplace").decode()
    return _SECRET_TEXT.sub(rf"\1{REDACTED}", text)


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
