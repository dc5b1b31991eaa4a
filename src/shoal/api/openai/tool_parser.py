"""A model's text, as it comes, to what a client is told: text, and calls of tools.

A call is written ``<tool_call>``, an object with ``name`` and then ``arguments``, ``</tool_call>``. The state
follows from the characters read so far, however they were cut: the same text gives the same calls, also when it is
read again from its beginning on another coordinator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from shoal.types import TOOL_CALL_BEGIN, TOOL_CALL_END

MAX_HEAD = 256  # characters of what stands before the arguments; a name has 64

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([a-zA-Z0-9_-]{1,64})"\s*,\s*"arguments"\s*:\s*\{')


class Text(NamedTuple):
    text: str


class CallBegan(NamedTuple):
    call: int  # counted from 0
    name: str


class Arguments(NamedTuple):
    """A piece of a call's arguments, which are a JSON object."""

    call: int
    text: str


Part = Text | CallBegan | Arguments


class ToolCallParser:
    """Text that may be the beginning of a mark is held back, and white space until it is known not to stand before
    a mark. What begins like a call and is none is text."""

    def __init__(self) -> None:
        self.calls = 0  # that were read to their end
        self.open = False  # within a call
        self._read: Callable[[str], Iterable[Part]] = self._text
        self._space = ""  # white space that nobody was told yet
        self._held = ""  # what may be the beginning of something, behind that
        self._depth = 0  # of the arguments' braces and brackets
        self._quoted = False  # within one of their strings
        self._escaped = False

    def feed(self, text: str) -> list[Part]:
        return _joined(part for char in text for part in self._read(char))

    def finish(self) -> list[Part]:
        """The text has ended, maybe too early."""
        mark = TOOL_CALL_BEGIN if self._read == self._head else ""
        text = self._space + mark + self._held
        if self._read == self._tail or (self.calls and not text.strip()):
            return []
        return [Text(text)] if text else []

    # -- one reader for each state; each takes a character

    def _text(self, char: str) -> Iterator[Part]:
        if char.isspace() and not self._held:
            self._space += char
            return
        self._held += char
        if self._held == TOOL_CALL_BEGIN:
            self._space = self._held = ""
            self.open = True
            self._read = self._head
        elif not TOOL_CALL_BEGIN.startswith(self._held):
            yield self._let_go()

    def _let_go(self) -> Text:
        """All that cannot belong to a mark."""
        size = len(self._held)
        begun = next(at for at in range(1, size + 1) if TOOL_CALL_BEGIN.startswith(self._held[at:]))
        known = (self._space + self._held[:begun]).rstrip()
        self._space = self._held[:begun][len(self._held[:begun].rstrip()) :]
        self._held = self._held[begun:]
        return Text(known)

    def _head(self, char: str) -> Iterator[Part]:
        self._held += char
        if found := _HEAD.fullmatch(self._held):
            self._held = ""
            self._depth = 1
            self._read = self._arguments
            yield CallBegan(self.calls, found[1])
            yield Arguments(self.calls, "{")
        elif len(self._held) > MAX_HEAD:
            text, self._held = TOOL_CALL_BEGIN + self._held, ""
            self.open = False
            self._read = self._text
            yield Text(text)

    def _arguments(self, char: str) -> Iterator[Part]:
        yield Arguments(self.calls, char)
        if self._quoted:
            self._quoted = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
        elif char == '"':
            self._quoted = True
        else:
            self._depth += (char in "{[") - (char in "}]")
            if not self._depth:
                self._read = self._tail

    def _tail(self, char: str) -> Iterator[Part]:
        """The end of a call: white space, its last brace, its mark."""
        if char.isspace():
            return
        self._held += char
        end = "}" + TOOL_CALL_END
        if end.startswith(self._held) and self._held != end:
            return
        leftover = "" if self._held == end else char  # another character ends the call too
        self._held = ""
        self.calls += 1
        self.open = False
        self._read = self._text
        for char in leftover:
            yield from self._text(char)


def _joined(parts: Iterable[Part]) -> list[Part]:
    """Neighbours of a kind as one."""
    joined: list[Part] = []
    for part in parts:
        match joined[-1] if joined else None, part:
            case Text(before), Text(text):
                joined[-1] = Text(before + text)
            case Arguments(call, before), Arguments(_, text):
                joined[-1] = Arguments(call, before + text)
            case _:
                joined.append(part)
    return joined
