"""What is asked: as many different questions as there are numbers, all of the same size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rivals.entrant import Server

FIRST: Final = 10_000_000  # numbers have eight digits, so that all bodies are as long as each other


@dataclass(frozen=True)
class Questions:
    """A question is made of a number's digits, each spelt in its way, and of what is the same in all."""

    make: Callable[[str], Any]  # a spelt number -> what a server is asked for
    right: Callable[[Sequence[int], Sequence[Any]], bool]  # numbers, what was answered
    joiner: str = ""
    digits: tuple[str, ...] = tuple("0123456789")
    size: int = 0  # bytes of a body, filled up with blanks; 0: as they come

    def spell(self, number: int) -> str:
        return self.joiner.join(self.digits[int(digit)] for digit in str(number))

    def body(self, server: Server, number: int) -> bytes:
        encoded = msgspec.json.encode(server.ask(self.make(self.spell(number))))
        return encoded[:-1].ljust(self.size - 1) + encoded[-1:]

    def template(self, server: Server) -> tuple[bytes, bytes]:
        """What stands before and behind the spelt number in every body."""
        head, _, tail = self.body(server, FIRST).partition(self.spell(FIRST).encode())
        return head, tail
