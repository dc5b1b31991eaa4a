"""Bytes to frames and back. A frame is ``u32 payload length | u8 type | u8 flags | u32 stream | payload``.

The lowest flag is END; the other seven bits count the frames of one direction, 1 to 127 and round again, so that one
that is lost, comes twice or out of its turn is noticed, whatever lies between the two sides. 0 stands for no number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final

import msgspec

from shoal.errors import ProtocolError
from shoal.rpc.codec import Buffer
from shoal.rpc.limits import KIB, MAX_EARLY_FRAME, Unfinished

#: The first byte is 0: no HTTP request begins so, and one port can serve both.
MAGIC: Final = b"\x00SHOAL"
VERSION: Final = 1
_VERSION: Final = struct.Struct("!H")
PREFACE_SIZE: Final = len(MAGIC) + _VERSION.size

HEADER: Final = struct.Struct("!IBBI")
END: Final = 1  # flag of DATA: nothing follows on this stream
NUMBERS: Final = 127


class FrameType(IntEnum):
    HELLO = 1  # who I am and what I accept
    OPEN = 2  # u64 timeout in milliseconds (0: none), then a message; on stream 0 it wants no answer
    DATA = 3  # a message; with END it is the last, and may be absent
    ERROR = 4  # ErrorInfo; ends the stream
    CANCEL = 5  # by the opener; ends the stream
    CREDIT = 6  # u32: so many more messages may come
    PING = 7  # 8 bytes that come back in a PONG
    PONG = 8
    GOODBYE = 9  # why this connection ends, as text; the same in every version of the protocol


#: The largest payload by type, in bytes; OPEN and DATA have the limit that HELLO announced.
_LIMITS: Final = {
    FrameType.HELLO: 4 * KIB,
    FrameType.ERROR: 64 * KIB,
    FrameType.CANCEL: 0,
    FrameType.CREDIT: 4,
    FrameType.PING: 8,
    FrameType.PONG: 8,
    FrameType.GOODBYE: 4 * KIB,
}
_OPEN, _DATA = _SIZED = FrameType.OPEN, FrameType.DATA
_CONNECTION_WIDE: Final = frozenset({FrameType.HELLO, FrameType.PING, FrameType.PONG, FrameType.GOODBYE})


class Frame(msgspec.Struct, frozen=True):
    type: FrameType
    stream_id: int
    payload: bytes | bytearray
    end: bool = False


def preface(version: int = VERSION) -> bytes:
    return MAGIC + _VERSION.pack(version)


def check_magic(received: bytes) -> None:
    """Raises :class:`ProtocolError` for the first bytes of something else, as soon as they are seen to be so."""
    if received[: len(MAGIC)] != MAGIC[: len(received)]:
        raise ProtocolError("the other side does not speak Shoal's protocol")


def check_version(received: bytes) -> None:
    """``received`` is a whole preface. Raises :class:`ProtocolError` for another version."""
    (version,) = _VERSION.unpack_from(received, len(MAGIC))
    if version != VERSION:
        raise ProtocolError(f"this side speaks version {VERSION} of the protocol, the other version {version}")


def encode_frame(
    kind: FrameType, stream_id: int, payload: Sequence[Buffer], *, end: bool = False, number: int = 0
) -> list[Buffer]:
    return [HEADER.pack(sum(map(len, payload)), kind, number << 1 | end, stream_id), *payload]


class FrameReader:
    """Cuts what arrives into frames, however the network has cut it.

    A length is believed only as far as its bytes have come, so announcing a large frame costs the reader nothing.
    Every payload has memory of its own: it is aligned, and a small one does not keep a large read alive.
    What has come of a frame that is not whole is held of ``unfinished``, which connections may share.
    """

    def __init__(self, max_payload: int, unfinished: Unfinished | None = None) -> None:
        self._max_payload = max_payload
        self._limits = {**_LIMITS, **dict.fromkeys(_SIZED, min(max_payload, MAX_EARLY_FRAME))}
        self._unfinished = unfinished or Unfinished()
        self._types = {int(kind): kind for kind in FrameType}
        self._rest = b""  # a header that has not come whole
        self._head: tuple[int, FrameType, bool, int] | None = None  # of the frame whose payload is coming
        self._payload = bytearray()
        self._count = 0  # frames that have come whole
        self._number = 0  # of the last frame that had one
        self.beginning = 0  # ordinal of the frame that has begun to come and is not whole; 0: there is none

    def trust(self) -> None:
        """The peer is known: its frames may be as large as they get."""
        self._limits.update(dict.fromkeys(_SIZED, self._max_payload))

    def drop(self) -> None:
        """Nothing more will come: forget what has come of a frame."""
        self._unfinished.give_back(len(self._payload))
        self._payload, self._rest, self._head, self.beginning = bytearray(), b"", None, 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that ``data`` completes.

        Raises :class:`ProtocolError` at a header that is wrong or announces too much, and when too much is held
        for unfinished frames; the reader is then of no further use.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, size = 0, len(data)
        head, self._head = self._head, None
        while head is not None or size - at >= HEADER.size:
            if head is None:
                head = self._read_header(data, at)
                at += HEADER.size
            length, kind, end, stream_id = head
            missing = length - len(self._payload)
            if size - at < missing:
                self._keep(data[at:])
                self._head, self.beginning = head, self._count + 1
                return
            part = data[at : at + missing]
            at += missing
            self._count += 1
            yield Frame(kind, stream_id, part if missing == length else self._take_kept(part), end)
            head = None
        self._rest = data[at:]
        self.beginning = self._count + 1 if self._rest else 0

    def _keep(self, payload: bytes) -> None:
        if not self._unfinished.take(len(payload)):
            raise ProtocolError(f"frames that are not whole may hold {self._unfinished.size} bytes together")
        self._payload += payload

    def _take_kept(self, rest: bytes) -> bytearray:
        payload, self._payload = self._payload, bytearray()
        self._unfinished.give_back(len(payload))
        payload += rest
        return payload

    def _read_header(self, data: bytes, at: int) -> tuple[int, FrameType, bool, int]:
        length, number, flags, stream_id = HEADER.unpack_from(data, at)
        kind = self._types.get(number)
        end = flags & END == END
        if kind is None or (end and kind is not _DATA):
            raise ProtocolError(f"there is no frame of type {number} with flags {flags & END}")
        if length > self._limits[kind]:
            raise ProtocolError(f"a {kind.name} frame of {length} bytes is over the limit of {self._limits[kind]}")
        if (stream_id == 0) is not (kind in _CONNECTION_WIDE) and kind is not _OPEN:
            raise ProtocolError(f"a {kind.name} frame cannot be on stream {stream_id}")
        if flags > END:
            due = self._number % NUMBERS + 1
            if flags >> 1 != due:
                came = flags >> 1
                raise ProtocolError(f"frame {came} came where frame {due} was due: some were lost, repeated or moved")
            self._number = due
        return length, kind, end, stream_id
