"""KV memory in blocks that sequences own, share and leave behind. Bookkeeping alone: no engine, no clock.

A block is *free* (nothing in it), *held* by one or more sequences, or *kept*: nobody holds it, but it is published,
so that a later prompt that begins the same way can take it. Kept blocks count as available. Of the free blocks the
lowest is given away first, since llama.cpp computes only neighbours together; then the kept one unused for longest.

Only full blocks of a prompt that were computed by prefill are published. Blocks that decoding fills differ from
them in the last bits, and an answer must be the same, token for token, whatever was in the cache. So generated
tokens are computed again when they come back as a part of the next prompt.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heappop, heappush

from shoal.types import TokenId


@dataclass(frozen=True, slots=True)
class BlockKey:
    """What a full block of a prompt holds: its own tokens, and through ``parent`` all that come before them."""

    digest: bytes
    parent: bytes
    tokens: tuple[TokenId, ...]


def block_keys(prompt: Sequence[TokenId], block_size: int, salt: bytes) -> list[BlockKey]:
    """The keys of a prompt's full blocks. Prompts under different ``salt`` (tenant, model) share none."""
    keys: list[BlockKey] = []
    parent = _digest(salt)
    for end in range(block_size, len(prompt) + 1, block_size):
        tokens = tuple(prompt[end - block_size : end])
        keys.append(BlockKey(_digest(parent + array("q", tokens).tobytes()), parent, tokens))
        parent = keys[-1].digest
    return keys


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


class BlockPool:
    """Who holds which block."""

    def __init__(self, num_blocks: int) -> None:
        self._free = list(range(num_blocks))  # a heap
        self._holders = [0] * num_blocks
        self._keys: dict[int, BlockKey] = {}  # of the published blocks
        self._published: dict[bytes, int] = {}  # digest to block
        self._kept: OrderedDict[int, None] = OrderedDict()  # longest unused first

    @property
    def num_blocks(self) -> int:
        return len(self._holders)

    @property
    def available(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free) + len(self._kept)

    def available_beside(self, shared: Sequence[int]) -> int:
        """Those that are available once ``shared`` are held."""
        return self.available - sum(1 for block in shared if not self._holders[block])

    @property
    def held(self) -> int:
        return self.num_blocks - self.available

    def holders(self, block: int) -> int:
        return self._holders[block]

    def match(self, keys: Sequence[BlockKey]) -> list[int]:
        """The blocks of the longest known beginning of ``keys``. Takes nothing; valid until the next call."""
        blocks: list[int] = []
        for key in keys:
            block = self._published.get(key.digest)
            if block is None or self._keys[block] != key:  # the tokens decide, not the digest
                break
            blocks.append(block)
        return blocks

    def acquire(self, shared: Sequence[int], fresh: int, *, spare: int = 0) -> list[int] | None:
        """Hold ``shared`` (from :meth:`match`) and ``fresh`` new blocks; None, and nothing held, unless that
        leaves ``spare`` blocks available."""
        if fresh + spare > self.available_beside(shared):
            return None
        for block in shared:
            self._hold(block)
        taken = [self._take() for _ in range(fresh)]
        for block in taken:
            self._hold(block)
        return [*shared, *taken]

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of what :meth:`acquire` gave."""
        # Last block first: the tail of a prompt is worth less than its head, without which it cannot be reached.
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._keys:
                    self._kept[block] = None
                else:
                    heappush(self._free, block)

    def publish(self, block: int, key: BlockKey) -> None:
        """Offer a held block, now fully computed, to other sequences. The first to hold some tokens stays it."""
        if key.digest not in self._published and block not in self._keys:
            self._published[key.digest] = block
            self._keys[block] = key

    def _hold(self, block: int) -> None:
        self._kept.pop(block, None)
        self._holders[block] += 1

    def _take(self) -> int:
        if self._free:
            return heappop(self._free)
        block, _ = self._kept.popitem(last=False)
        del self._published[self._keys.pop(block).digest]
        return block

    def check_integrity(self) -> None:
        """Raises AssertionError unless every block is in exactly one state. Takes time with the number of blocks."""
        holding = {block for block, holders in enumerate(self._holders) if holders > 0}
        groups = [set(self._free), set(self._kept), holding]
        assert min(self._holders, default=0) >= 0, "a block was released more often than held"
        assert sum(map(len, groups)) == self.num_blocks, "a block is lost or in two states"
        assert len(set().union(*groups)) == len(self._free) + len(self._kept) + len(holding), "a block is listed twice"
        assert not set(self._free) & set(self._keys), "a free block is published"
        assert set(self._kept) <= set(self._keys), "a kept block is not published"
        assert self._published == {key.digest: block for block, key in self._keys.items()}
