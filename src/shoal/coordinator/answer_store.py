"""Which answers are kept for those who come back for them. Time comes as an argument, on the loop's clock."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from shoal.errors import Conflict, Overloaded

RETRY_AFTER = 5.0  # seconds until a place may be free


class Kept(Protocol):
    """``key`` is of idempotency, empty for none; ``digest`` tells the request of one answer from that of another.
    ``expires`` is set when it has ended."""

    expires: float | None

    @property
    def id(self) -> str: ...

    @property
    def tenant(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def digest(self) -> bytes: ...

    @property
    def size(self) -> int:
        """Bytes of what is kept of it."""
        ...


K = TypeVar("K", bound=Kept)


class _Finished(Generic[K]):
    """Those of one tenant, in the order in which they finished."""

    def __init__(self) -> None:
        self.items: dict[str, K] = {}
        self.bytes = 0

    def oldest(self, spared: K | None) -> K | None:
        return next((item for item in self.items.values() if item is not spared), None)


class AnswerStore(Generic[K]):
    """Bounded in number and in bytes. Whoever of the tenants has most finished ones makes room, with the first of his
    that finished; so none can push out another's, and one alone may have all. An unfinished one is never dropped.

    ``things``: what they are, for people. ``ttl``: seconds that a finished one is kept.
    """

    def __init__(self, things: str, *, most: int, max_bytes: int, ttl: float) -> None:
        self.bytes_used = 0
        self._things = things
        self._most = most
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._items: dict[str, K] = {}
        self._sizes: dict[str, int] = {}  # as counted last
        self._keys: dict[str, K] = {}
        self._finished: dict[str, K] = {}  # in the order in which they finished and will expire
        self._finished_of: dict[str, _Finished[K]] = {}  # the same by tenant
        self._finished_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: K, now: float) -> None:
        """Raises :class:`Overloaded` when there is no room beside the unfinished ones, and :class:`Conflict` for an id
        that is taken."""
        self.expire(now)
        if item.id in self._items:
            raise Conflict(f"this name is another's: {self._things} have one each")
        if len(self._items) >= self._most and not self._drop_one():
            raise Overloaded(f"at most {self._most} {self._things} at a time", retry_after=RETRY_AFTER)
        if self.bytes_used + item.size - self._finished_bytes > self._max_bytes:
            raise Overloaded(f"{self._things} may have {self._max_bytes} bytes together", retry_after=RETRY_AFTER)
        self._items[item.id] = item
        self._sizes[item.id] = 0
        self.measure(item)
        if item.key:
            self._keys[item.key] = item

    def find(self, item_id: str, now: float) -> K | None:
        self.expire(now)
        return self._items.get(item_id)

    def with_key(self, key: str, digest: bytes, now: float) -> K | None:
        """The one that this key of idempotency has already. Raises :class:`Conflict` for a key with another request."""
        self.expire(now)
        found = self._keys.get(key)
        if found is not None and found.digest != digest:
            raise Conflict("idempotency-key: a different request has it", param="idempotency-key")
        return found

    def measure(self, item: K) -> int:
        """Count its bytes anew and drop finished ones for them. Returns by how many bytes all that is left is
        too large."""
        if item.id not in self._sizes:
            return 0
        size = item.size
        more = size - self._sizes[item.id]
        self.bytes_used += more
        if item.id in self._finished:
            self._finished_bytes += more
            self._finished_of[item.tenant].bytes += more
        self._sizes[item.id] = size
        while self.bytes_used > self._max_bytes and self._drop_one(spared=item):
            pass
        return self.bytes_used - self._max_bytes

    def finished(self, item: K, now: float) -> None:
        """It has ended; from now on its time runs."""
        item.expires = now + self._ttl
        if item.id in self._items and item.id not in self._finished:
            self._finished[item.id] = item
            self._finished_bytes += self._sizes[item.id]
            own = self._finished_of.setdefault(item.tenant, _Finished())
            own.items[item.id] = item
            own.bytes += self._sizes[item.id]

    def free_key(self, item: K) -> None:
        """Whoever asks with its key from now on asks anew."""
        if self._keys.get(item.key) is item:
            del self._keys[item.key]

    def forget(self, item: K) -> None:
        if self._items.pop(item.id, None) is None:
            return
        size = self._sizes.pop(item.id)
        self.bytes_used -= size
        if self._finished.pop(item.id, None) is not None:
            self._finished_bytes -= size
            own = self._finished_of[item.tenant]
            del own.items[item.id]
            own.bytes -= size
            if not own.items:
                del self._finished_of[item.tenant]
        self.free_key(item)

    def expire(self, now: float) -> None:
        while self._finished and (oldest := next(iter(self._finished.values()))).expires is not None:
            if oldest.expires > now:
                return
            self.forget(oldest)

    @property
    def next_expiry(self) -> float | None:
        oldest = next(iter(self._finished.values()), None)
        return None if oldest is None else oldest.expires

    def _drop_one(self, spared: K | None = None) -> bool:
        able = (own for own in self._finished_of.values() if own.oldest(spared) is not None)
        most = max(able, key=self._share, default=None)
        oldest = None if most is None else most.oldest(spared)
        if oldest is None:
            return False
        self.forget(oldest)
        return True

    def _share(self, own: _Finished[K]) -> float:
        """What a tenant takes of both bounds together."""
        return len(own.items) / self._most + own.bytes / self._max_bytes
