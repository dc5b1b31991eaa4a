"""What a tenant or a model may use."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from shoal.config.values import Count, Seconds, Section

Rate = Annotated[float, msgspec.Meta(gt=0, le=1e12)]  # a second

DEFAULT_TENANT: Final = "default"  # in the table of tenants: whoever is not named there


class LimitConfig(Section, frozen=True):
    """Beyond one of these the answer is 429; None: no bound. What waits for its turn counts as what runs does."""

    requests: Count | None = None  # at a time
    rows: Count | None = None  # of requests for tensor models, at a time
    tokens: Count | None = None  # of prompts and their answers, at a time
    requests_per_second: Rate | None = None
    rows_per_second: Rate | None = None
    tokens_per_second: Rate | None = None
    burst: Seconds = 1.0  # seconds' worth of each rate that may come at once

    @property
    def is_set(self) -> bool:
        return any(getattr(self, name) is not None for name in LimitConfig.__struct_fields__ if name != "burst")


class TenantConfig(LimitConfig, frozen=True):
    weight: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0  # its share of what all want, beside the others
