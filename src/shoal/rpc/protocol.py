"""One side of a connection without I/O: bytes come in as events, calls go out as buffers to write.

Messages are opaque here; :mod:`shoal.rpc.codec` reads and writes them. :mod:`shoal.rpc.states` has the rules.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from shoal.errors import ErrorInfo, PayloadTooLarge, ProtocolError
from shoal.rpc.codec import Buffer
from shoal.rpc.events import (
    Broken,
    CancelledByPeer,
    Credited,
    Event,
    Failed,
    Hello,
    Opened,
    Parted,
    Pinged,
    Ponged,
    Ready,
    Received,
)
from shoal.rpc.frames import (
    NUMBERS,
    PREFACE_SIZE,
    Frame,
    FrameReader,
    FrameType,
    check_magic,
    check_version,
    encode_frame,
    preface,
)
from shoal.rpc.limits import MAX_TIMEOUT, Unfinished
from shoal.rpc.states import CONNECTION, STREAM, ConnectionState, Move, Side, StreamState

NOTICE: Final = 0  # the stream of messages that want no answer
PING_SIZE: Final = 8  # bytes
MAX_REASON: Final = 1000  # characters of a goodbye, and of the field that an error names

T = TypeVar("T")

_OURS, _THEIRS = Side.OURS, Side.THEIRS
_CLOSED = ConnectionState.CLOSED

_IDS: Final = 2**32
_TIMEOUT: Final = struct.Struct("!Q")  # 8 bytes, so that the message behind it stays aligned
_CREDIT: Final = struct.Struct("!I")


class LocalProtocolError(RuntimeError):
    """This side tried a move that the protocol does not allow: a mistake in this program."""


class _Stream(msgspec.Struct):
    credit: int  # messages that the server of the stream may send
    held: Sequence[Buffer] | None = None  # a message that may turn out to be the last


class WireProtocol:
    """The state of one connection and its streams."""

    def __init__(self, hello: Hello, *, dials: bool, unfinished: Unfinished | None = None) -> None:
        self.hello = hello
        self.peer: Hello | None = None
        self.state = ConnectionState.PREFACE
        self.understands_goodbye = False  # not before the other side has shown itself to be Shoal, of any version
        self._streams: dict[int, _Stream] = {}
        self._holding: list[tuple[int, _Stream]] = []
        self._preface = b""
        self._reader = FrameReader(hello.max_frame, unfinished)
        self._number = 0  # of the last frame that went out
        self._parity = 1 if dials else 0
        self._moves = tuple(STREAM[self._side(parity), StreamState.OPEN] for parity in (0, 1))  # of an open stream
        self._next = {Side.OURS: 2 - self._parity, Side.THEIRS: 1 + self._parity}

    # -- coming in

    @property
    def beginning(self) -> int:
        """The ordinal of the frame that has begun to come and is not whole; 0: there is none."""
        return self._reader.beginning

    def drop(self) -> None:
        """No more data will come: forget the half of a frame."""
        self._reader.drop()

    def receive_data(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes. After :class:`Parted` or :class:`Broken` there are no more."""
        events: list[Event] = []
        if self.state is _CLOSED:
            return events
        try:
            if self.state is ConnectionState.PREFACE:
                data = self._receive_preface(data)
            for frame in self._reader.feed(data):
                if (event := self._receive_frame(frame)) is not None:
                    events.append(event)
                if self.state is _CLOSED:
                    break
        except ProtocolError as error:
            self.state = ConnectionState.CLOSED
            events.append(Broken(error))
        return events

    def _receive_preface(self, data: bytes) -> bytes:
        data, self._preface = self._preface + data, b""
        check_magic(data)
        if len(data) < PREFACE_SIZE:
            self._preface = data
            return b""
        self.understands_goodbye = True
        check_version(data)
        self.state = ConnectionState.HELLO
        return data[PREFACE_SIZE:]

    def _receive_frame(self, frame: Frame) -> Event | None:
        state = CONNECTION[self.state].get(frame.type)
        if state is None:
            raise ProtocolError(f"a {frame.type.name} frame has no place in the state {self.state.name}")
        event = self._RECEIVERS[frame.type](self, frame)
        self.state = state
        return event

    def _on_hello(self, frame: Frame) -> Event:
        self.peer = _decode(frame, Hello)
        self._reader.trust()
        return Ready(self.peer)

    def _on_open(self, frame: Frame) -> Event:
        if len(frame.payload) < _TIMEOUT.size:
            raise ProtocolError("an OPEN frame ends before its timeout")
        (milliseconds,) = _TIMEOUT.unpack_from(frame.payload)
        timeout = min(milliseconds / 1000, MAX_TIMEOUT) if milliseconds else None
        if (stream_id := frame.stream_id) != NOTICE:
            if stream_id != self._next[_THEIRS] or stream_id in self._streams:  # the usual one is idle
                self._move(stream_id, Move.RECEIVE_OPEN)
            self._next[_THEIRS] = _after(stream_id)
            assert self.peer is not None
            self._streams[stream_id] = _Stream(self.peer.credit)
        return Opened(stream_id, timeout, memoryview(frame.payload)[_TIMEOUT.size :])

    def _on_data(self, frame: Frame) -> Event | None:
        if not frame.payload and not frame.end:
            raise ProtocolError("a DATA frame has neither a message nor END")
        stream = self._move(frame.stream_id, Move.RECEIVE_END if frame.end else Move.RECEIVE_DATA)
        if stream is None:
            return None
        if frame.payload:
            stream.credit -= 1
            if stream.credit < 0:
                raise ProtocolError(f"more messages on stream {frame.stream_id} than it has credit for")
        return Received(frame.stream_id, frame.payload or None, frame.end)

    def _on_error(self, frame: Frame) -> Event | None:
        error = _decode(frame, ErrorInfo)
        if self._move(frame.stream_id, Move.RECEIVE_ERROR) is None:
            return None
        return Failed(frame.stream_id, error)

    def _on_cancel(self, frame: Frame) -> Event | None:
        stream = self._move(frame.stream_id, Move.RECEIVE_CANCEL)
        if stream is None:
            return None
        stream.held = None
        return CancelledByPeer(frame.stream_id)

    def _on_credit(self, frame: Frame) -> Event | None:
        if len(frame.payload) != _CREDIT.size:
            raise ProtocolError("a CREDIT frame has not the size of a number")
        stream = self._move(frame.stream_id, Move.RECEIVE_CREDIT)
        if stream is None:
            return None
        stream.credit += _CREDIT.unpack(frame.payload)[0]
        return Credited(frame.stream_id)

    def _on_ping(self, frame: Frame) -> Event:
        return Pinged(_ping_data(frame))

    def _on_pong(self, frame: Frame) -> Event:
        return Ponged(_ping_data(frame))

    def _on_goodbye(self, frame: Frame) -> Event:
        reason = frame.payload.decode(errors="replace")[:MAX_REASON]
        return Parted("".join(letter if letter.isprintable() else " " for letter in reason))  # it gets into logs

    _RECEIVERS: Final = {
        FrameType.HELLO: _on_hello,
        FrameType.OPEN: _on_open,
        FrameType.DATA: _on_data,
        FrameType.ERROR: _on_error,
        FrameType.CANCEL: _on_cancel,
        FrameType.CREDIT: _on_credit,
        FrameType.PING: _on_ping,
        FrameType.PONG: _on_pong,
        FrameType.GOODBYE: _on_goodbye,
    }

    # -- going out

    def begin(self) -> list[Buffer]:
        """What each side says first."""
        return [preface(), *self._frame(FrameType.HELLO, 0, [msgspec.msgpack.encode(self.hello)])]

    def open(self, message: Sequence[Buffer], timeout: float | None) -> tuple[int, list[Buffer]]:
        """Open a stream with a message; ``timeout`` in seconds travels with it. Returns the stream's id as well.

        Raises :class:`PayloadTooLarge`, as every sending of a message does.
        """
        self._check_open()
        payload = self._opening(message, timeout)
        stream_id = self._next[_OURS]
        while stream_id in self._streams:  # ids come round again; a stream may have lived all the while
            stream_id = _after(stream_id)
        self._next[_OURS] = _after(stream_id)
        self._streams[stream_id] = _Stream(self.hello.credit)
        return stream_id, self._frame(FrameType.OPEN, stream_id, payload)

    def notify(self, message: Sequence[Buffer]) -> list[Buffer]:
        """Send a message that wants no answer."""
        self._check_open()
        return self._frame(FrameType.OPEN, NOTICE, self._opening(message, None))

    def answer(self, stream_id: int, message: Sequence[Buffer]) -> list[Buffer]:
        """Send the only answer. Needs :meth:`can_send`."""
        self._check_open()
        self._check_size(sum(map(len, message)))
        stream = self._move(stream_id, Move.SEND_END)
        assert stream is not None
        assert stream.credit > 0
        return self._frame(FrameType.DATA, stream_id, message, end=True)

    def send(self, stream_id: int, message: Sequence[Buffer]) -> list[Buffer]:
        """Send an answer. Needs :meth:`can_send`.

        The answer is held until there is another, :meth:`end` or :meth:`take_held`, so that the last one and the
        end of the stream are one frame.
        """
        self._check_open()
        self._check_size(sum(map(len, message)))
        stream = self._move(stream_id, Move.SEND_DATA)
        if stream is None or stream.credit <= 0:
            raise LocalProtocolError(f"stream {stream_id} has no credit")
        stream.credit -= 1
        released = self._release(stream_id, stream)
        stream.held = message
        self._holding.append((stream_id, stream))
        return released

    def can_send(self, stream_id: int) -> bool:
        """May a message be sent on this stream now? Not without the peer's credit, and not once it has ended."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.credit > 0

    def take_held(self) -> list[Buffer]:
        """The answers that :meth:`send` held back."""
        buffers: list[Buffer] = []
        for stream_id, stream in self._holding:
            buffers += self._release(stream_id, stream)
        self._holding.clear()
        return buffers

    def end(self, stream_id: int) -> list[Buffer]:
        stream = self._move(stream_id, Move.SEND_END)
        assert stream is not None
        message, stream.held = stream.held, None
        return self._frame(FrameType.DATA, stream_id, message or [], end=True)

    def fail(self, stream_id: int, error: ErrorInfo) -> list[Buffer]:
        stream = self._move(stream_id, Move.SEND_ERROR)
        assert stream is not None
        if error.param is not None:
            error = msgspec.structs.replace(error, param=error.param[:MAX_REASON])
        released = self._release(stream_id, stream)
        return released + self._frame(FrameType.ERROR, stream_id, [msgspec.msgpack.encode(error)])

    def cancel(self, stream_id: int) -> list[Buffer]:
        self._move(stream_id, Move.SEND_CANCEL)
        return self._frame(FrameType.CANCEL, stream_id, [])

    def credit(self, stream_id: int, messages: int) -> list[Buffer]:
        """Let the peer send ``messages`` more on a stream of ours."""
        stream = self._move(stream_id, Move.SEND_CREDIT)
        assert stream is not None
        stream.credit += messages
        return self._frame(FrameType.CREDIT, stream_id, [_CREDIT.pack(messages)])

    def ping(self, data: bytes) -> list[Buffer]:
        return self._frame(FrameType.PING, 0, [data])

    def pong(self, data: bytes) -> list[Buffer]:
        return self._frame(FrameType.PONG, 0, [data])

    def goodbye(self, reason: str) -> list[Buffer]:
        """The last thing to say. It has no number, as it is the same in every version of the protocol."""
        self.state = ConnectionState.CLOSED
        return encode_frame(FrameType.GOODBYE, 0, [reason[:MAX_REASON].encode(errors="replace")])

    def _frame(self, kind: FrameType, stream_id: int, payload: Sequence[Buffer], *, end: bool = False) -> list[Buffer]:
        """It has to be written before the next one is made."""
        self._number = number = self._number % NUMBERS + 1
        return encode_frame(kind, stream_id, payload, end=end, number=number)

    def _release(self, stream_id: int, stream: _Stream) -> list[Buffer]:
        message, stream.held = stream.held, None
        return [] if message is None else self._frame(FrameType.DATA, stream_id, message)

    # -- rules

    def is_open(self, stream_id: int) -> bool:
        return stream_id in self._streams

    def count(self, side: Side) -> int:
        """Streams open now that this side opened."""
        return sum(self._side(stream_id) is side for stream_id in self._streams)

    def _side(self, stream_id: int) -> Side:
        return Side.OURS if stream_id & 1 == self._parity else Side.THEIRS

    def _move(self, stream_id: int, move: Move) -> _Stream | None:
        """Make one move. Returns None where the move crossed the end of its stream and means nothing any more."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_move(stream_id, move)
            return None
        after = self._moves[stream_id & 1].get(move)
        if after is None:
            raise self._illegal(stream_id, move, StreamState.OPEN)
        if after is StreamState.CLOSED:
            del self._streams[stream_id]
        return stream

    def _check_move(self, stream_id: int, move: Move) -> None:
        """Of a stream that is not open."""
        side = self._side(stream_id)
        state = StreamState.CLOSED if _is_before(stream_id, self._next[side]) else StreamState.IDLE
        if move not in STREAM[side, state]:
            raise self._illegal(stream_id, move, state)

    def _illegal(self, stream_id: int, move: Move, state: StreamState) -> Exception:
        kind = ProtocolError if move >= Move.RECEIVE_OPEN else LocalProtocolError
        return kind(f"{move.name} on stream {stream_id} of {self._side(stream_id).name}, which is {state.name}")

    def _check_open(self) -> None:
        if self.state is not ConnectionState.OPEN:
            raise LocalProtocolError(f"the connection is not ready for messages: {self.state.name}")

    def _opening(self, message: Sequence[Buffer], timeout: float | None) -> list[Buffer]:
        # Rounded up: 0 would mean no timeout at all.
        milliseconds = 0 if timeout is None else max(1, math.ceil(min(timeout, MAX_TIMEOUT) * 1000))
        payload = [_TIMEOUT.pack(milliseconds), *message]
        self._check_size(sum(map(len, payload)))
        return payload

    def _check_size(self, size: int) -> None:
        limit = self.peer.max_frame if self.peer else 0
        if size > limit:
            raise PayloadTooLarge(f"a message of {size} bytes is over the {limit} that {self.peer} accepts")


def _decode(frame: Frame, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(frame.payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a {frame.type.name} frame is not valid: {error}") from error


def _ping_data(frame: Frame) -> bytes:
    if len(frame.payload) != PING_SIZE:
        raise ProtocolError(f"a {frame.type.name} frame has not {PING_SIZE} bytes")
    return bytes(frame.payload)


def _after(stream_id: int) -> int:
    """The next id of the same parity, round the circle and past 0, which is no stream."""
    return (stream_id + 2) % _IDS or 2


def _is_before(stream_id: int, other: int) -> bool:
    """Was ``stream_id`` used before ``other`` on the circle of ids?"""
    return (stream_id - other) % _IDS >= _IDS // 2
