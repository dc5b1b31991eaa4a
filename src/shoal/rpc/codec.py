"""Messages to bytes and back: MessagePack for structure, raw buffers beside it for tensors.

One message on the wire::

    u32 head length | head: MessagePack | padding to 8 | buffer | padding to 8 | buffer …

In the head a tensor is ``[dtype, shape, offset]``, the offset counted from the first buffer; a BYTES tensor is
``["BYTES", shape, [bytes, …]]`` and has no buffer. Buffers are little-endian, row by row, in the order in which
the head names them, and do not overlap, so that a short message cannot stand for more memory than it brought.
"""

from __future__ import annotations

import math
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

_LENGTH: Final = struct.Struct("!I")
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

assert sys.byteorder == "little", "tensors travel as they lie in memory, and the wire is little-endian"


class _Current(threading.local):
    """The buffers of the message at hand: a hook of msgspec is given the value alone."""

    outgoing: list[Array]
    offset: int  # where the next outgoing buffer begins, or the last incoming one ended
    incoming: memoryview


_current = _Current()


def serialize(message: Message) -> list[Buffer]:
    """The message as pieces to be written one after another.

    Tensors are not copied: the pieces look into their memory, which must not change until it is sent.
    Raises :class:`InvalidRequest` for what the wire cannot carry.
    """
    _current.outgoing, _current.offset = [], 0
    try:
        head = _encoder.encode(message)
    except (UnicodeEncodeError, OverflowError) as error:
        raise InvalidRequest(f"the message cannot be sent: {error}") from error
    arrays = _current.outgoing
    if not arrays:
        return [_LENGTH.pack(len(head)) + head]
    _current.outgoing = []
    pieces: list[Buffer] = [_LENGTH.pack(len(head)) + head + bytes(-(_LENGTH.size + len(head)) % ALIGNMENT)]
    for array in arrays:
        if array.nbytes:  # memoryview cannot cast an empty one
            pieces.append(array.data.cast("B"))
            if padding := -array.nbytes % ALIGNMENT:
                pieces.append(bytes(padding))
    return pieces


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
    _current.incoming, _current.offset = view[end + -end % ALIGNMENT :], 0
    try:
        return _decoder(kind).decode(view[_LENGTH.size : end])
    except msgspec.ValidationError as error:
        raise invalid(error, "the message") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a message is not valid: {error}") from error
    except RecursionError as error:
        raise ProtocolError("a message is nested too deeply") from error
    finally:
        _current.incoming = memoryview(b"")


def _encode_tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a {type(value).__name__} cannot travel")
    name = _NAMES.get(value.dtype)
    if name is None:
        raise InvalidRequest(f"a tensor of dtype {value.dtype} cannot travel; there are {', '.join(DTYPES)}")
    if name == "BYTES":
        return name, value.shape, [_as_bytes(element) for element in value.ravel()]
    array = np.ascontiguousarray(value)
    offset = _current.offset
    _current.outgoing.append(array)
    _current.offset = offset + array.nbytes + -array.nbytes % ALIGNMENT
    return name, value.shape, offset


def _as_bytes(element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    raise InvalidRequest(f"a BYTES tensor holds bytes or text, not {type(element).__name__}")


def _decode_tensor(_kind: type, value: object) -> Array:
    name, shape, content = _checked(value)
    dtype = DTYPES.get(name)
    if dtype is None:
        raise InvalidRequest(f"dtype {name[:20]!r} does not exist; there are {', '.join(DTYPES)}")
    if isinstance(content, int):
        if name == "BYTES":
            raise InvalidRequest("a BYTES tensor has a list of bytes, not a buffer")
        return _view(name, dtype, shape, content)
    if name != "BYTES" or math.prod(shape) != len(content):
        raise InvalidRequest(f"a {name} tensor of shape {list(shape)} cannot have {len(content)} byte strings")
    array: npt.NDArray[np.object_] = np.empty(len(content), dtype=np.object_)
    array[:] = content
    array.flags.writeable = False
    return array.reshape(shape)


def _checked(value: object) -> tuple[str, tuple[int, ...], int | list[bytes]]:
    """By hand: ``msgspec.convert`` takes 10 µs, most of them for hashing the type."""
    if type(value) is not list or len(value) != 3 or type(value[0]) is not str or type(value[1]) is not list:
        raise InvalidRequest("a tensor is not [dtype, shape, content]")
    name, shape, content = value
    if len(shape) > MAX_DIMENSIONS or not _are_sizes(shape):
        raise InvalidRequest(f"the shape of a tensor is not up to {MAX_DIMENSIONS} whole numbers up to 2**62")
    if isinstance(content, list):
        if not all(type(element) is bytes for element in content):
            raise InvalidRequest("a BYTES tensor has something else than byte strings")
    elif type(content) is not int or content < 0:
        raise InvalidRequest("the offset of a tensor is not a whole number from 0")
    return name, tuple(shape), content


def _are_sizes(shape: list[object]) -> bool:
    for size in shape:  # noqa: SIM110  (a generator costs as much as all that is checked)
        if type(size) is not int or not 0 <= size <= MAX_DIMENSION:
            return False
    return True


def _view(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Array:
    count = math.prod(shape)
    size = count * dtype.itemsize
    if offset % ALIGNMENT or offset < _current.offset or offset + size > len(_current.incoming):
        raise InvalidRequest(
            f"a {name} tensor of shape {list(shape)} needs {size} bytes at offset {offset}; the message has "
            f"{len(_current.incoming)}, {_current.offset} of them taken"
        )
    _current.offset = offset + size
    try:
        array = np.frombuffer(_current.incoming[offset : offset + size], dtype).reshape(shape)
    except ValueError as error:  # an empty array whose other dimensions are beyond what numpy can count
        raise InvalidRequest(f"a tensor cannot have the shape {list(shape)}") from error
    if name == "BOOL" and np.any(array.view(np.uint8) > 1):
        raise InvalidRequest("a BOOL tensor has a byte that is neither 0 nor 1")
    return array


_decoders: Final[dict[int, tuple[Any, msgspec.msgpack.Decoder[Any]]]] = {}  # each with its kind, so that it stays one
_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_encode_tensor)


def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    # By identity: a union's hash takes 3 µs.
    known = _decoders.get(id(kind))
    if known is None:
        known = _decoders[id(kind)] = kind, msgspec.msgpack.Decoder(kind, dec_hook=_decode_tensor)
    return known[1]
