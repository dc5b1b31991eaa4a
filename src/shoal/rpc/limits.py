"""The bounds of the wire, each with its reason, and the budget that holds a peer to them."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: Payload of one frame. gRPC's 4 MiB turns away a batch of pictures, Triton's 2 GiB lets one request take a
#: worker's memory. 64 MiB holds 32 images of 3 x 384 x 384 floats.
MAX_FRAME: Final = 64 * MIB

#: Payload of a frame before the peer has introduced itself: a stranger costs no more.
MAX_EARLY_FRAME: Final = 64 * KIB

#: Bytes of frames that have begun to come and are not whole, over all connections of a server. Who sends half frames
#: has asked nothing yet and is counted nowhere else. Eight of the largest frames at a time; an honest one is in the
#: making for a fraction of a second.
MAX_UNFINISHED_BYTES: Final = 512 * MIB

#: Seconds for a frame to come whole, from its first byte: the largest one at 18 Mbit/s.
FRAME_TIMEOUT: Final = 30.0

#: Answers that may be on their way before the reader has taken any. Deep enough that a stream of tokens never
#: waits for a round trip, shallow enough that a reader that stopped costs 64 small messages.
CREDIT: Final = 64

#: Requests of one peer that are being worked on. Above it is no legitimate neighbour (a coordinator admits 1,024).
MAX_INBOUND_CALLS: Final = 4096

#: Bytes of these requests together; each may be as large as a frame.
MAX_INBOUND_BYTES: Final = 512 * MIB

#: Frames that do not wait for the transport (notices, cancels, credit, pongs, errors), in bytes, while the peer
#: reads nothing. A peer that makes us owe more than this is stuck or hostile.
MAX_UNPACED_BYTES: Final = 4 * MIB

#: Seconds that an answer waits for credit. Who reads it grants some with every few parts, so after a minute without
#: nobody reads; the stream ends, for it holds a place in an engine that others could use.
MAX_STALL: Final = 60.0

#: Seconds of a request's timeout, as over HTTP; a longer one is taken for this.
MAX_TIMEOUT: Final = 24 * 3600.0

#: Notices of one connection that may be refused. A neighbour that keeps the rules sends none.
MAX_REFUSED_NOTICES: Final = 10


class Unfinished:
    """What frames in the making hold, in bytes, for all connections that share this."""

    def __init__(self, size: int = MAX_UNFINISHED_BYTES) -> None:
        self.size = size
        self.held = 0

    def take(self, size: int) -> bool:
        """Hold so much more, or say no and change nothing."""
        if self.held + size > self.size:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        self.held -= size


class Budget:
    """How much of a peer's work is taken on at a time, in calls and in bytes."""

    def __init__(self, calls: int = MAX_INBOUND_CALLS, size: int = MAX_INBOUND_BYTES) -> None:
        self._calls = calls
        self._size = size

    def has_room(self, size: int) -> bool:
        """May a call of ``size`` bytes be taken on?"""
        return self._calls > 0 and self._size >= size

    def take(self, size: int) -> None:
        self._calls -= 1
        self._size -= size

    def give_back(self, size: int) -> None:
        self._calls += 1
        self._size += size
