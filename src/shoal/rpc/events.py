"""What :meth:`WireProtocol.receive_data` tells of."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from shoal.errors import ErrorInfo, ProtocolError
from shoal.rpc.codec import Buffer
from shoal.rpc.limits import CREDIT, KIB, MAX_FRAME

MIN_FRAME = 64 * KIB  # bytes: room for every message without tensors that the fleet needs to say


class Hello(msgspec.Struct, frozen=True):
    """Who a side is and what it accepts. The first thing each side says."""

    role: Literal["coordinator", "worker", "client", "engine"]
    node_id: Annotated[str, msgspec.Meta(max_length=256, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]  # it gets into logs
    max_frame: Annotated[int, msgspec.Meta(ge=MIN_FRAME, le=2**32 - 1)] = MAX_FRAME  # bytes of payload
    credit: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)] = CREDIT  # answers per stream that may come unasked

    def __str__(self) -> str:
        return f"{self.role} {self.node_id}"


class _Event(msgspec.Struct, frozen=True):
    pass


class Ready(_Event, frozen=True):
    """The peer has introduced itself; streams may be opened."""

    peer: Hello


class Opened(_Event, frozen=True):
    """The peer asks something. Stream 0 wants no answer."""

    stream_id: int
    timeout: float | None  # seconds
    payload: Buffer


class Received(_Event, frozen=True):
    """An answer; with ``end`` the last one. Only the last may lack a payload."""

    stream_id: int
    payload: Buffer | None
    end: bool


class Failed(_Event, frozen=True):
    """The peer ended a stream of ours with an error."""

    stream_id: int
    error: ErrorInfo


class CancelledByPeer(_Event, frozen=True):
    """The peer wants no more answers on a stream it opened."""

    stream_id: int


class Credited(_Event, frozen=True):
    """More may be sent on a stream the peer opened."""

    stream_id: int


class Pinged(_Event, frozen=True):
    data: bytes


class Ponged(_Event, frozen=True):
    data: bytes


class Parted(_Event, frozen=True):
    """The peer said goodbye. Always the last event."""

    reason: str


class Broken(_Event, frozen=True):
    """What came breaks the protocol. Always the last event."""

    error: ProtocolError


Event: TypeAlias = Ready | Opened | Received | Failed | CancelledByPeer | Credited | Pinged | Ponged | Parted | Broken
