"""JSON bodies to typed requests; whatever is wrong with one is the client's error and names the field."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from shoal.errors import InvalidRequest, invalid

T = TypeVar("T")


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
