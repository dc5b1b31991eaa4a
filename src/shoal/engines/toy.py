"""A language model without a model, for tests and simulations: instant, reproducible and strict.

What it says depends on everything in a sequence's blocks, read back position by position. So a scheduler that
mixes blocks up, skips a token or writes where somebody else reads changes the answer. Like real engines it is not
bit-stable for every way to cut a prompt: a position's KV is the same only if its row began at or before its tile of
32 tokens. KV that decoding wrote differs from what prefill would have written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from shoal.engines.base import Capabilities, LanguageEngine, Logits, Row
from shoal.errors import EngineFailed
from shoal.types import TokenId

TILE = 32
EOS = 256
VOCAB_SIZE = 257

_MASK = 2**64 - 1
_LIKELY = np.zeros(VOCAB_SIZE, np.float32)
_LIKELY[list(b" abcdefghijklmnopqrstuvwxyz")] = 8.0


class ToyTokenizer:
    """A token is a byte; one more ends the answer, written ``<eos>``."""

    vocab_size = VOCAB_SIZE
    eos_ids = frozenset((EOS,))
    chat_template: str | None = None
    bos_token = ""
    eos_token = "<eos>"

    def encode(self, text: str, *, special: bool) -> list[TokenId]:
        if not special:
            return list(text.encode())
        head, *rest = text.split(self.eos_token)
        return list(head.encode()) + [token for part in rest for token in (EOS, *part.encode())]

    def token_bytes(self, token: TokenId) -> bytes:
        return b"" if token == EOS else bytes((token,))


class ToyEngine(LanguageEngine):
    """``intervene`` is called with the rows and logits of each step before they are returned: it may raise, wait
    (:attr:`interrupted` ends a wait), or spoil the logits. ``steps`` are the latest steps, ``violations`` what was
    wrong with their rows."""

    def __init__(
        self,
        *,
        context_length: int = 1024,
        block_size: int = 16,
        num_blocks: int = 256,
        max_sequences: int = 16,
        max_step_tokens: int = 512,
        share_prefixes: bool = True,
        max_generated: int = 512,
    ) -> None:
        self.tokenizer = ToyTokenizer()
        self.capabilities = Capabilities(
            vocab_size=VOCAB_SIZE,
            context_length=context_length,
            block_size=block_size,
            num_blocks=num_blocks,
            max_sequences=max_sequences,
            max_step_tokens=max_step_tokens,
            share_prefixes=share_prefixes,
            max_generated=max_generated,
        )
        self.intervene: Callable[[Sequence[Row], Logits], None] = lambda rows, logits: None
        self.interrupted = threading.Event()
        self.steps: deque[tuple[Row, ...]] = deque(maxlen=10_000)
        self.violations: deque[str] = deque(maxlen=100)
        self.closed = False
        self._kv = np.zeros((num_blocks, block_size), np.uint64)
        self._weights = np.array([_mix(position) for position in range(context_length)], np.uint64)

    def step(self, rows: Sequence[Row]) -> Logits:
        self.interrupted.clear()
        self.steps.append(tuple(rows))
        self._check(rows)
        states = [self._compute(row) for row in rows]
        wanted = [state for row, state in zip(rows, states, strict=True) if row.wants_logits]
        logits = np.array([_logits(state) for state in wanted], np.float32).reshape(-1, VOCAB_SIZE)
        self.intervene(rows, logits)
        return logits

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None:
        self.closed = True

    def _compute(self, row: Row) -> int:
        """Write the row's KV; what it and all before it come to."""
        size = self.capabilities.block_size
        before = self._kv[list(row.blocks[: -(-row.start // size)])].reshape(-1)[: row.start]
        state = int((before * self._weights[: row.start]).sum(dtype=np.uint64))
        for position, token in enumerate(row.tokens, row.start):
            late = row.start > position // TILE * TILE
            value = _mix(state ^ _mix(4 * token + (2 if row.generated else late)))
            self._kv[row.blocks[position // size], position % size] = value
            state = (state + value * int(self._weights[position])) & _MASK
        return state

    def _check(self, rows: Sequence[Row]) -> None:
        for wrong in _violations(rows, self.capabilities):
            self.violations.append(wrong)
            raise EngineFailed(f"the step is against the engine's rules: {wrong}")


def _violations(rows: Sequence[Row], can: Capabilities) -> list[str]:
    wrong: list[str] = []
    if not 0 < len(rows) <= can.max_sequences:
        wrong.append(f"{len(rows)} rows")
    if sum(len(row.tokens) for row in rows) > can.max_step_tokens:
        wrong.append("too many tokens in a step")
    for row in rows:
        end = row.start + len(row.tokens)
        if not row.tokens or row.start < 0 or end > min(can.context_length, len(row.blocks) * can.block_size):
            wrong.append(f"positions {row.start} to {end} have no room in {len(row.blocks)} blocks")
        if len(set(row.blocks)) != len(row.blocks) or not set(row.blocks) <= set(range(can.num_blocks)):
            wrong.append(f"blocks {row.blocks}")
        if row.generated and len(row.tokens) > can.max_generated:
            wrong.append(f"{len(row.tokens)} generated tokens in a row")
        if not set(row.tokens) <= set(range(can.vocab_size)):
            wrong.append("a token outside the vocabulary")
    tables = [(row.start // can.block_size, row.blocks) for row in rows]
    for index, (first, blocks) in enumerate(tables):
        others = {block for other, (_, table) in enumerate(tables) if other != index for block in table}
        if others & set(blocks[first:] if can.share_prefixes else blocks):
            wrong.append("a block that is written is in another row too")
    return wrong


def _mix(value: int) -> int:
    """Scramble 64 bits (the finaliser of SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _logits(state: int) -> Logits:
    """Mostly letters and spaces; about one token in 64 ends the answer."""
    noise = np.random.Generator(np.random.PCG64(state)).random(VOCAB_SIZE, np.float32) * 8
    logits: Logits = noise + _LIKELY
    if state % 64 == 0:
        logits[EOS] = 32.0
    return logits
