from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ProtocolError
from shoal.rpc.frames import (
    HEADER,
    MAGIC,
    VERSION,
    Frame,
    FrameReader,
    FrameType,
    check_magic,
    check_version,
    encode_frame,
    preface,
)
from shoal.rpc.limits import MIB

FRAMES = [
    Frame(FrameType.HELLO, 0, b"hello"),
    Frame(FrameType.OPEN, 0, b"12345678 notice"),
    Frame(FrameType.OPEN, 1, b"12345678" + bytes(300)),
    Frame(FrameType.CANCEL, 1, b""),
    Frame(FrameType.DATA, 2**32 - 1, b"x", end=True),
    Frame(FrameType.DATA, 2, b"", end=True),
    Frame(FrameType.GOODBYE, 0, "tschüß".encode()),
]


def encode(*frames: Frame) -> bytes:
    return b"".join(b"".join(encode_frame(f.type, f.stream_id, [f.payload], end=f.end)) for f in frames)


@given(st.lists(st.sampled_from(FRAMES), max_size=6), st.data())
def test_frames_come_back_however_the_network_cuts_them(frames: list[Frame], data: st.DataObject) -> None:
    wire = encode(*frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    reader = FrameReader(1000)
    parts = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert [frame for part in parts for frame in reader.feed(part)] == frames


def test_the_first_byte_is_not_that_of_http() -> None:
    assert preface()[0] == 0
    check_magic(preface())
    check_version(preface())


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1", b"\x00SHOEL", b"\x00SHOAX\x00\x01"])
def test_another_protocol_is_noticed_at_its_first_wrong_byte(start: bytes) -> None:
    with pytest.raises(ProtocolError, match="does not speak"):
        check_magic(start)


def test_another_version_is_refused_with_both_versions() -> None:
    with pytest.raises(ProtocolError, match=f"version {VERSION} .* version 300"):
        check_version(MAGIC + b"\x01\x2c")


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(0, 0, 0, 0),
        HEADER.pack(0, 10, 0, 0),
        HEADER.pack(0, FrameType.DATA, 4, 1),  # the second, before the first
        HEADER.pack(0, FrameType.CANCEL, 1, 1),
        HEADER.pack(0, FrameType.DATA, 1, 0),
        HEADER.pack(0, FrameType.CREDIT, 0, 0),
        HEADER.pack(8, FrameType.PING, 0, 1),
        HEADER.pack(1, FrameType.CANCEL, 0, 1),
        HEADER.pack(5000, FrameType.HELLO, 0, 0),
        HEADER.pack(70_000, FrameType.ERROR, 0, 1),
        HEADER.pack(1001, FrameType.DATA, 0, 1),
        HEADER.pack(2**32 - 1, FrameType.OPEN, 0, 1),
    ],
    ids=bytes.hex,
)
def test_a_wrong_header_is_refused_before_its_payload_comes(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(FrameReader(1000).feed(header))


def test_announcing_a_large_frame_costs_the_reader_nothing() -> None:
    reader = FrameReader(64 * MIB)
    reader.trust()
    tracemalloc.start()
    try:
        assert list(reader.feed(HEADER.pack(64 * MIB, FrameType.DATA, 0, 1) + b"x")) == []
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_a_large_frame_in_small_pieces_and_many_small_frames_are_read_in_linear_time() -> None:
    def seconds(size: int) -> float:
        wire = HEADER.pack(size, FrameType.DATA, 0, 1) + bytes(size) + encode(FRAMES[3]) * (size // 1000)
        reader = FrameReader(64 * MIB)
        reader.trust()
        began = time.process_time()
        count = sum(1 for at in range(0, len(wire), 100) for _ in reader.feed(wire[at : at + 100]))
        assert count == 1 + size // 1000
        return time.process_time() - began

    small, large = seconds(MIB // 4), seconds(4 * MIB)
    assert large < 16 * 6 * small  # quadratic would be 256 times


def test_a_small_payload_does_not_keep_a_large_read_alive() -> None:
    read = encode(Frame(FrameType.DATA, 1, b"small")) + encode(Frame(FrameType.DATA, 1, bytes(900)))
    first = next(FrameReader(1000).feed(read))
    assert isinstance(first.payload, bytes)
    assert first.payload == b"small"
