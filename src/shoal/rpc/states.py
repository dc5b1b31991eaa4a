"""The protocol as tables: which move is legal when, and where it leads. Whatever is not here is an error.

A stream has an opener, who sends OPEN and may CANCEL and give CREDIT, and a server, who sends DATA and ends it
with END or ERROR. The frames of one side may cross the other side's end of the stream on the way; these moves are
legal on a closed stream and change nothing.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

from shoal.rpc.frames import FrameType


class ConnectionState(IntEnum):
    """How far the other side has come; this side says its preface and HELLO at once."""

    PREFACE = auto()
    HELLO = auto()
    OPEN = auto()
    CLOSED = auto()


_OPEN, _CLOSED = ConnectionState.OPEN, ConnectionState.CLOSED

CONNECTION: Final[dict[ConnectionState, dict[FrameType, ConnectionState]]] = {
    ConnectionState.PREFACE: {},
    ConnectionState.HELLO: {FrameType.HELLO: _OPEN, FrameType.GOODBYE: _CLOSED},
    ConnectionState.OPEN: {
        FrameType.OPEN: _OPEN,
        FrameType.DATA: _OPEN,
        FrameType.ERROR: _OPEN,
        FrameType.CANCEL: _OPEN,
        FrameType.CREDIT: _OPEN,
        FrameType.PING: _OPEN,
        FrameType.PONG: _OPEN,
        FrameType.GOODBYE: _CLOSED,
    },
    ConnectionState.CLOSED: {},
}


class Side(IntEnum):
    """Who opened the stream."""

    OURS = auto()
    THEIRS = auto()


class StreamState(IntEnum):
    IDLE = auto()  # not opened yet
    OPEN = auto()
    CLOSED = auto()


class Move(IntEnum):
    SEND_OPEN = auto()
    SEND_CANCEL = auto()
    SEND_CREDIT = auto()
    SEND_DATA = auto()
    SEND_END = auto()
    SEND_ERROR = auto()
    RECEIVE_OPEN = auto()
    RECEIVE_CANCEL = auto()
    RECEIVE_CREDIT = auto()
    RECEIVE_DATA = auto()
    RECEIVE_END = auto()
    RECEIVE_ERROR = auto()


STREAM: Final[dict[tuple[Side, StreamState], dict[Move, StreamState]]] = {
    (Side.OURS, StreamState.IDLE): {Move.SEND_OPEN: StreamState.OPEN},
    (Side.OURS, StreamState.OPEN): {
        Move.SEND_CREDIT: StreamState.OPEN,
        Move.SEND_CANCEL: StreamState.CLOSED,
        Move.RECEIVE_DATA: StreamState.OPEN,
        Move.RECEIVE_END: StreamState.CLOSED,
        Move.RECEIVE_ERROR: StreamState.CLOSED,
    },
    (Side.OURS, StreamState.CLOSED): {  # these crossed our CANCEL
        Move.RECEIVE_DATA: StreamState.CLOSED,
        Move.RECEIVE_END: StreamState.CLOSED,
        Move.RECEIVE_ERROR: StreamState.CLOSED,
    },
    (Side.THEIRS, StreamState.IDLE): {Move.RECEIVE_OPEN: StreamState.OPEN},
    (Side.THEIRS, StreamState.OPEN): {
        Move.SEND_DATA: StreamState.OPEN,
        Move.SEND_END: StreamState.CLOSED,
        Move.SEND_ERROR: StreamState.CLOSED,
        Move.RECEIVE_CREDIT: StreamState.OPEN,
        Move.RECEIVE_CANCEL: StreamState.CLOSED,
    },
    (Side.THEIRS, StreamState.CLOSED): {  # these crossed our END or ERROR
        Move.RECEIVE_CREDIT: StreamState.CLOSED,
        Move.RECEIVE_CANCEL: StreamState.CLOSED,
    },
}
