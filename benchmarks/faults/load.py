"""Many streams at a time, in a burst or one after the other, and what each client got."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import shoal
from faults.cluster import MODEL
from shoal.client import as_prompt
from shoal.messages import Chunk, Generate
from shoal.types import ModelName, RequestId, Sampling

TOKENS = 48
HUNG = 60.0  # seconds without an end
CLIENTS = 8
SPREAD = 4.0  # seconds over which a steady load arrives

Shape = Literal["burst", "steady"]


@dataclass
class Stream:
    """What one client got."""

    question: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    stall: float = 0.0  # seconds, the longest between two parts
    end: str = "hung"  # or finished, or the code of an error
    why: str = ""  # it ended with an error
    ends: int = 0  # parts that said that they are the last
    trace: str = ""  # the id of its trace
    parts: list[tuple[float, int]] = field(default_factory=list)  # when each came (since 1970), and the tokens by then


class Client(shoal.AsyncClient):
    """Its requests belong to traces that are known here, so that they are found again among the spans."""

    async def ask(self, request: Generate) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self._generated(request)) as chunks:
            async for chunk in chunks:
                yield chunk


@dataclass(frozen=True)
class Load:
    """``chat``: the questions are messages, for a model that has a template. ``traced``: with spans of each."""

    streams: int
    questions: int = 40
    chat: bool = False
    tokens: int = TOKENS
    traced: bool = False

    def request(self, question: int, trace: str = "", output: Sequence[int] = ()) -> Generate:
        """Greedy and seeded in turn, some with penalties, some that stop at a word. ``output``: what the client has."""
        options: dict[str, Any] = {"max_tokens": self.tokens, "ignore_eos": True, "seed": question}
        options["temperature"] = 0.0 if question % 2 else 0.9
        if question % 5 == 0:
            options |= {"repetition_penalty": 1.2, "presence_penalty": 0.3}
        if question % 7 == 0:
            options |= {"stop": (" the",)}
        text = f"Tell me {question + 2} things about the sea."
        return Generate(
            RequestId(secrets.token_hex(8)),
            ModelName(MODEL),
            as_prompt([{"role": "user", "content": text}] if self.chat else text),
            Sampling(**options),
            output=tuple(output),
            trace=f"00-{trace}-{secrets.token_hex(8)}-01" if trace else "",
        )

    async def ask(self, client: Client, question: int, after: float = 0.0) -> Stream:
        await asyncio.sleep(after)
        stream = Stream(question, trace=secrets.token_hex(16) if self.traced else "")
        last: float | None = None
        try:
            async with asyncio.timeout(HUNG):
                async for chunk in client.ask(self.request(question, stream.trace)):
                    at = time.monotonic()
                    if last is not None:
                        stream.stall = max(stream.stall, at - last)
                    last = at
                    stream.tokens += chunk.tokens
                    stream.text += chunk.text
                    stream.ends += chunk.finish_reason is not None
                    stream.parts.append((time.time(), len(stream.tokens)))
            stream.end = "finished"
        except TimeoutError:
            pass
        except shoal.ShoalError as error:
            stream.end, stream.why = error.code, error.message
        return stream

    async def run(self, addresses: Sequence[str], shape: Shape) -> list[Stream]:
        """All of them, over a few connections."""
        questions = [number % self.questions for number in range(self.streams)]
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(Client(",".join(addresses), timeout=HUNG)) for _ in range(CLIENTS)
            ]
            spread = 0.0 if shape == "burst" else SPREAD / self.streams
            asked = [
                self.ask(client, question, number * spread)
                for number, (client, question) in enumerate(zip(itertools.cycle(clients), questions, strict=False))
            ]
            return list(await asyncio.gather(*asked))

    async def in_peace(self, addresses: Sequence[str]) -> dict[int, Stream]:
        """Each question's answer, without a fault."""
        streams = await replace(self, streams=self.questions, traced=False).run(addresses, "burst")
        wrong = [stream.end for stream in streams if stream.end != "finished"]
        if wrong:
            raise SystemExit(f"without any fault requests ended with {wrong}")
        return {stream.question: stream for stream in streams}
