"""Messages to bytes and back: MessagePack for structure, raw buffers beside it for tensors.

One message on the wire::

    u32 head length | head: MessagePack | padding to 8 | buffer | padding to 8 | buffer …

In the head a tensor is ``[dtype, shape, offset]``, the offset counted from the first buffer; a BYTES tensor is
``["BYTES", shape, [bytes, …]]`` and has no buffer. Buffers are little-endian, row by row, in the order in which
the head names them, and do not overlap, so that a short message cannot stand for more memory than it brought.
"""

from __future__ import annotations

import struct
import sys
import threading
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.errors import InvalidRequest, ProtocolError, invalid
from shoal.messages import Message
from shoal.types import DTYPES, Array

Buffer: TypeAlias = bytes | bytearray | memoryview

#: The widest number that may travel has 8 bytes. Allocators align a received payload at least as well.
ALIGNMENT: Final = 8
MAX_DIMENSIONS: Final = 32  # the least that any numpy in use allows
MAX_DIMENSION: Final = 2**62  # above it numpy cannot say the shape, even of an empty array

#: Smaller tensors are copied at once: a view on their memory costs more, and a small write is put together anyway.
_COPY_BELOW: Final = 4096

_LENGTH: Final = struct.Struct("!I")
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

assert sys.byteorder == "little", "tensors travel as they lie in memory, and the wire is little-endian"


class _Writing:
    """Encodes messages in one thread. Of the message at hand it keeps the buffers, for a hook of msgspec is given the
    value alone."""

    def __init__(self) -> None:
        self.encode = msgspec.msgpack.Encoder(enc_hook=self._tensor).encode
        self.buffers: list[Buffer] = []
        self.offset = 0  # where the next buffer begins

    def _tensor(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"a {type(value).__name__} cannot travel")
        name = _NAMES.get(value.dtype)
        if name is None:
            raise InvalidRequest(f"a tensor of dtype {value.dtype} cannot travel; there are {', '.join(DTYPES)}")
        if name == "BYTES":
            return name, value.shape, [_as_bytes(element) for element in value.ravel()]
        size = value.nbytes
        if size < _COPY_BELOW:
            self.buffers.append(value.tobytes())
        else:
            self.buffers.append(np.ascontiguousarray(value).data.cast("B"))
        if padding := -size % ALIGNMENT:
            self.buffers.append(bytes(padding))
        offset = self.offset
        self.offset = offset + size + padding
        return name, value.shape, offset


def _as_bytes(element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    raise InvalidRequest(f"a BYTES tensor holds bytes or text, not {type(element).__name__}")


class _Reading:
    """Decodes messages in one thread; of the message at hand it knows where the buffers are."""

    def __init__(self) -> None:
        # Each with its kind, so that it stays one. By identity: a union's hash takes 3 µs.
        self._decoders: dict[int, tuple[Any, msgspec.msgpack.Decoder[Any]]] = {}
        self._view = memoryview(b"")
        self._first = 0  # where the first buffer begins in it
        self._taken = 0  # bytes behind it that tensors have

    def decode(self, view: memoryview, end: int, kind: Any) -> Any:
        """The message whose head ends at ``end``."""
        known = self._decoders.get(id(kind))
        if known is None:
            known = self._decoders[id(kind)] = kind, msgspec.msgpack.Decoder(kind, dec_hook=self._tensor)
        self._view, self._first, self._taken = view, end + -end % ALIGNMENT, 0
        try:
            return known[1].decode(view[_LENGTH.size : end])
        finally:
            self._view = _NOTHING

    def _tensor(self, _kind: type, value: object) -> Array:
        """By hand: ``msgspec.convert`` takes 10 µs, most of them for hashing the type."""
        if type(value) is not list or len(value) != 3 or type(value[0]) is not str or type(value[1]) is not list:
            raise InvalidRequest("a tensor is not [dtype, shape, content]")
        name, shape, content = value
        count = _count(shape)
        dtype = DTYPES.get(name)
        if dtype is None:
            raise InvalidRequest(f"dtype {name[:20]!r} does not exist; there are {', '.join(DTYPES)}")
        if type(content) is list:
            return _strings(name, shape, count, content)
        if type(content) is not int or content < 0:
            raise InvalidRequest("the offset of a tensor is not a whole number from 0")
        if name == "BYTES":
            raise InvalidRequest("a BYTES tensor has a list of bytes, not a buffer")
        return self._number(name, dtype, shape, count, content)

    def _number(self, name: str, dtype: np.dtype[Any], shape: list[int], count: int, offset: int) -> Array:
        size = count * dtype.itemsize
        first = self._first + offset
        if offset % ALIGNMENT or offset < self._taken or first + size > len(self._view):
            raise InvalidRequest(
                f"a {name} tensor of shape {shape} needs {size} bytes at offset {offset}; the message has "
                f"{max(0, len(self._view) - self._first)}, {self._taken} of them taken"
            )
        self._taken = offset + size
        try:
            array = np.frombuffer(self._view[first : first + size], dtype).reshape(shape)
        except ValueError as error:  # an empty array whose other dimensions are beyond what numpy can count
            raise InvalidRequest(f"a tensor cannot have the shape {shape}") from error
        if name == "BOOL" and np.any(array.view(np.uint8) > 1):
            raise InvalidRequest("a BOOL tensor has a byte that is neither 0 nor 1")
        return array


def _count(shape: list[object]) -> int:
    count = 1
    for size in shape if len(shape) <= MAX_DIMENSIONS else [None]:
        if type(size) is not int or not 0 <= size <= MAX_DIMENSION:
            raise InvalidRequest(f"the shape of a tensor is not up to {MAX_DIMENSIONS} whole numbers up to 2**62")
        count *= size
    return count


def _strings(name: str, shape: list[int], count: int, content: list[object]) -> Array:
    if not all(type(element) is bytes for element in content):
        raise InvalidRequest("a BYTES tensor has something else than byte strings")
    if name != "BYTES" or count != len(content):
        raise InvalidRequest(f"a {name} tensor of shape {shape} cannot have {len(content)} byte strings")
    array: npt.NDArray[np.object_] = np.empty(count, dtype=np.object_)
    array[:] = content
    array.flags.writeable = False
    return array.reshape(shape)


class _Here(threading.local):
    def __init__(self) -> None:
        self.writing = _Writing()
        self.reading = _Reading()


_NOTHING: Final = memoryview(b"")
_here: Final = _Here()


def serialize(message: Message) -> list[Buffer]:
    """The message as pieces to be written one after another.

    Large tensors are not copied: the pieces look into their memory, which must not change until it is sent.
    Raises :class:`InvalidRequest` for what the wire cannot carry.
    """
    writing = _here.writing
    writing.buffers, writing.offset = [], 0
    try:
        head = writing.encode(message)
    except (UnicodeEncodeError, OverflowError) as error:
        raise InvalidRequest(f"the message cannot be sent: {error}") from error
    buffers = writing.buffers
    if not buffers:
        return [_LENGTH.pack(len(head)) + head]
    writing.buffers = []  # or this thread would hold them until its next message
    return [_LENGTH.pack(len(head)) + head + bytes(-(_LENGTH.size + len(head)) % ALIGNMENT), *buffers]


def deserialize(payload: Buffer, kind: Any) -> Any:
    """The message of the class or union ``kind`` in ``payload``; its tensors are read-only views on ``payload``.

    Raises :class:`ProtocolError` for bytes that are no message and :class:`InvalidRequest` for a message or a
    tensor that breaks its rules.
    """
    if len(payload) < _LENGTH.size:
        raise ProtocolError("a message ends before its length")
    (length,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + length
    view = memoryview(payload).toreadonly()
    if end > len(view):
        raise ProtocolError(f"a message of {len(view)} bytes says that its head has {length}")
    try:
        return _here.reading.decode(view, end, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, "the message") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a message is not valid: {error}") from error
    except RecursionError as error:
        raise ProtocolError("a message is nested too deeply") from error
