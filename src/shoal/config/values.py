"""What sections are made of."""

from __future__ import annotations

from typing import Annotated

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=365 * 86_400)]
Heartbeat = Annotated[float, msgspec.Meta(ge=0.01, le=3600)]  # seconds
Count = Annotated[int, msgspec.Meta(ge=1)]


def about(description: str) -> msgspec.Meta:
    """What a setting is, as ``shoal config`` shows it."""
    return msgspec.Meta(description=description)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass
