"""Text from tokens as they come: whole characters only, and nothing that may turn out to be a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Bytes in, text out. However the bytes are cut into pieces, the same text comes out in all.

    Bytes that are no UTF-8 become U+FFFD. Text that could be the beginning of a stop string is held back until it
    is known not to be one; the stop string itself is never given out. The one that is complete first counts; of
    several complete with the same character, the longest.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = stop
        self._held = ""
        self.stopped = False  # by a stop string; no more text comes

    def feed(self, data: bytes) -> str:
        """The text that is certain now and was not before."""
        return self._sift(self._decoder.decode(data))

    def finish(self) -> str:
        """There are no more bytes: what was held back, and U+FFFD for an incomplete character."""
        text = self._sift(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _sift(self, text: str) -> str:
        if self.stopped or not self._stop:
            return "" if self.stopped else text
        text = self._held + text
        matches = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if matches:
            self.stopped, self._held = True, ""
            return text[: min(matches)[1]]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that ``stop`` could begin with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
