"""JSON bodies to typed requests; whatever is wrong with one is the client's error and names the field."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from shoal.errors import InvalidRequest

T = TypeVar("T")

_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


def parse(decoder: msgspec.json.Decoder[T], body: bytes | memoryview) -> T:
    """Raises :class:`InvalidRequest`."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def invalid(error: msgspec.ValidationError) -> InvalidRequest:
    """``Expected `str`, got `int` - at `$.messages[0].role``` as an error whose param is ``messages[0].role``."""
    text = str(error)
    at = _AT.search(text)
    path = at["path"] if at else ""
    if missing := _MISSING.search(text):
        path = f"{path}.{missing['field']}" if path else missing["field"]
    reason = text[: at.start()] if at else text
    return InvalidRequest(f"{path}: {reason}" if path else f"the body is not valid: {reason}", param=path or None)
