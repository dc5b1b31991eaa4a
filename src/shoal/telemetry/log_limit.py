"""A bound on how often one thing is logged: whoever can cause a line must not be able to fill a disk."""

from __future__ import annotations

import logging
from typing import Final

BURST: Final = 100  # lines of one action at once
PER_SECOND: Final = 10.0  # lines of one action in the long run
MAX_KEYS: Final = 1024  # actions and loggers are names in programs; beyond, the oldest begins anew


class _Bucket:
    __slots__ = ("at", "left_out", "tokens")

    def __init__(self, at: float) -> None:
        self.at = at  # seconds, when the tokens were counted
        self.tokens = float(BURST)
        self.left_out = 0  # since the last line


class LogLimit(logging.Filter):
    """A token bucket for each logger and ``action``. The next line that passes tells how many did not."""

    def __init__(self) -> None:
        super().__init__()
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        bucket = self._bucket(record)
        passed = max(0.0, record.created - bucket.at)  # a clock may be set back
        bucket.tokens = min(BURST, bucket.tokens + passed * PER_SECOND)
        bucket.at = record.created
        if bucket.tokens < 1:
            bucket.left_out += 1
            return False
        bucket.tokens -= 1
        if bucket.left_out:
            record.left_out = bucket.left_out
            bucket.left_out = 0
        return True

    def _bucket(self, record: logging.LogRecord) -> _Bucket:
        key = record.name, str(getattr(record, "action", ""))
        if (bucket := self._buckets.get(key)) is None:
            if len(self._buckets) >= MAX_KEYS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[key] = _Bucket(record.created)
        return bucket
