from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ErrorInfo, PayloadTooLarge
from shoal.rpc.codec import Buffer
from shoal.rpc.events import (
    MIN_FRAME,
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
from shoal.rpc.frames import FrameType, encode_frame, preface
from shoal.rpc.limits import MAX_TIMEOUT
from shoal.rpc.protocol import NOTICE, LocalProtocolError, WireProtocol
from shoal.rpc.states import CONNECTION, STREAM, ConnectionState, Move, Side, StreamState

LEFT = Hello("coordinator", "c1", credit=2, max_frame=MIN_FRAME)
RIGHT = Hello("worker", "w1", credit=3, max_frame=MIN_FRAME + 1)
ERROR = ErrorInfo("overloaded", "full", None, 1.5)


def join(buffers: Iterable[Buffer]) -> bytes:
    return b"".join(buffers)


class Pair:
    """Two sides that speak through nothing but bytes: the left one dialled."""

    def __init__(self) -> None:
        self.left = WireProtocol(LEFT, dials=True)
        self.right = WireProtocol(RIGHT, dials=False)
        assert self.to_right(self.left.begin()) == [Ready(LEFT)]
        assert self.to_left(self.right.begin()) == [Ready(RIGHT)]

    def to_right(self, buffers: Iterable[Buffer]) -> list[Event]:
        return self.right.receive_data(join(buffers))

    def to_left(self, buffers: Iterable[Buffer]) -> list[Event]:
        return self.left.receive_data(join(buffers))

    def opened(self) -> int:
        stream_id, buffers = self.left.open([b"ask"], None)
        self.to_right(buffers)
        return stream_id


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_a_question_and_its_only_answer_are_one_frame_each(pair: Pair) -> None:
    stream_id, buffers = pair.left.open([b"as", b"k"], 1.5)
    assert pair.to_right(buffers) == [Opened(stream_id, 1.5, b"ask")]
    assert pair.right.send(stream_id, [b"ans", b"wer"]) == []
    answer = pair.right.end(stream_id)
    assert answer == encode_frame(FrameType.DATA, stream_id, [b"ans", b"wer"], end=True, number=2)
    assert pair.to_left(answer) == [Received(stream_id, b"answer", True)]
    assert not pair.left.is_open(stream_id)
    assert not pair.right.is_open(stream_id)
    assert pair.right.take_held() == []
    other = pair.opened()
    assert pair.to_left(pair.right.answer(other, [b"ans", b"wer"])) == [Received(other, b"answer", True)]
    assert not pair.right.is_open(other)


@pytest.mark.parametrize("spoil", ["drop", "repeat", "swap"])
@pytest.mark.parametrize("at", [0, 1, 125, 126, 127, 200])
def test_a_frame_that_is_lost_or_repeated_or_moved_breaks_the_connection(pair: Pair, at: int, spoil: str) -> None:
    frames = [join(pair.left.ping(bytes(8))) for _ in range(300)]
    begun = [*frames[:at], *{"drop": [], "repeat": frames[at : at + 1] * 2, "swap": frames[at + 1 : at + 2]}[spoil]]
    whole = at + 1 if spoil == "repeat" else at
    *pings, broken = pair.to_right([*begun, *frames[at + 1 :]])
    assert pings == [Pinged(bytes(8))] * whole
    assert isinstance(broken, Broken)
    assert "was due: some were lost, repeated or moved" in broken.error.message


def test_answers_keep_their_order_when_they_are_released(pair: Pair) -> None:
    stream_id = pair.opened()
    events = pair.to_left(pair.right.send(stream_id, [b"1"]))
    events += pair.to_left(pair.right.send(stream_id, [b"2"]))
    events += pair.to_left(pair.right.take_held())
    events += pair.to_left(pair.right.end(stream_id))
    assert events == [
        Received(stream_id, b"1", False),
        Received(stream_id, b"2", False),
        Received(stream_id, None, True),
    ]


def test_both_sides_open_streams_with_ids_of_their_own(pair: Pair) -> None:
    ours = [pair.left.open([b"x"], None)[0] for _ in range(3)]
    theirs = [pair.right.open([b"x"], None)[0] for _ in range(3)]
    assert ours == [1, 3, 5]
    assert theirs == [2, 4, 6]
    assert pair.left.count(Side.OURS) == 3


def test_ids_go_round_and_pass_over_a_stream_that_still_lives(pair: Pair) -> None:
    first = pair.opened()
    pair.left._next[Side.OURS] = pair.right._next[Side.THEIRS] = 2**32 - 1
    assert [pair.opened(), pair.opened()] == [2**32 - 1, 3]
    assert pair.right.is_open(first)
    pair.right._next[Side.OURS] = 2**32 - 2
    assert [pair.right.open([b"x"], None)[0] for _ in range(2)] == [2**32 - 2, 2]


def test_a_notice_opens_no_stream(pair: Pair) -> None:
    assert pair.to_right(pair.left.notify([b"news"])) == [Opened(NOTICE, None, b"news")]
    assert pair.right.count(Side.THEIRS) == 0


@pytest.mark.parametrize(("asked", "told"), [(None, None), (0.0001, 0.001), (1.0001, 1.001), (3600.0, 3600.0)])
def test_a_timeout_is_rounded_up_to_milliseconds(pair: Pair, asked: float | None, told: float | None) -> None:
    stream_id, buffers = pair.left.open([b"x"], asked)
    assert pair.to_right(buffers) == [Opened(stream_id, told, b"x")]


@pytest.mark.parametrize("milliseconds", [10**15, 2**64 - 1])
def test_no_timeout_is_longer_than_a_day(pair: Pair, milliseconds: int) -> None:
    far = b"".join(encode_frame(FrameType.OPEN, 1, [milliseconds.to_bytes(8, "big"), b"x"]))
    assert pair.right.receive_data(far) == [Opened(1, MAX_TIMEOUT, b"x")]
    stream_id, buffers = pair.right.open([b"x"], milliseconds / 1000)
    assert pair.left.receive_data(b"".join(buffers)) == [Opened(stream_id, MAX_TIMEOUT, b"x")]


def test_an_error_ends_its_stream_and_follows_what_was_held(pair: Pair) -> None:
    stream_id = pair.opened()
    pair.right.send(stream_id, [b"1"])
    events = pair.to_left(pair.right.fail(stream_id, ERROR))
    assert events == [Received(stream_id, b"1", False), Failed(stream_id, ERROR)]
    assert not pair.left.is_open(stream_id)


def test_an_error_that_names_an_endless_field_still_travels(pair: Pair) -> None:
    stream_id = pair.opened()
    (event,) = pair.to_left(pair.right.fail(stream_id, ErrorInfo("x", "y", "ä" * 100_000)))
    assert isinstance(event, Failed)


def test_cancel_ends_the_stream_and_drops_what_was_held(pair: Pair) -> None:
    stream_id = pair.opened()
    pair.right.send(stream_id, [b"1"])
    assert pair.to_right(pair.left.cancel(stream_id)) == [CancelledByPeer(stream_id)]
    assert pair.right.take_held() == []


def test_frames_that_cross_the_end_of_a_stream_mean_nothing(pair: Pair) -> None:
    stream_id = pair.opened()
    pair.right.send(stream_id, [b"1"])
    late = pair.right.take_held() + pair.right.end(stream_id)
    cancel = pair.left.cancel(stream_id)
    assert pair.to_left(late) == []
    assert pair.to_right(cancel) == []

    stream_id = pair.opened()
    credit = pair.left.credit(stream_id, 1)
    late = pair.right.fail(stream_id, ERROR)
    pair.left.cancel(stream_id)
    assert pair.to_right(credit) == []
    assert pair.to_left(late) == []


def test_credit_is_spent_by_messages_and_renewed_by_the_reader(pair: Pair) -> None:
    stream_id = pair.opened()
    for _ in range(LEFT.credit):
        assert pair.right.can_send(stream_id)
        pair.to_left(pair.right.send(stream_id, [b"x"]))
    assert not pair.right.can_send(stream_id)
    with pytest.raises(LocalProtocolError, match="no credit"):
        pair.right.send(stream_id, [b"x"])
    assert pair.to_right(pair.left.credit(stream_id, 5)) == [Credited(stream_id)]
    assert pair.right.can_send(stream_id)


def test_a_peer_that_sends_more_than_its_credit_is_cut_off(pair: Pair) -> None:
    stream_id = pair.opened()
    frame = encode_frame(FrameType.DATA, stream_id, [b"x"])
    *taken, last = pair.to_left(frame * (LEFT.credit + 1))
    assert len(taken) == LEFT.credit
    assert isinstance(last, Broken)


def test_a_message_over_the_peers_limit_is_refused_here_and_harms_nothing(pair: Pair) -> None:
    stream_id = pair.opened()
    with pytest.raises(PayloadTooLarge, match=str(MIN_FRAME)):
        pair.right.send(stream_id, [bytes(MIN_FRAME + 1)])
    with pytest.raises(PayloadTooLarge):
        pair.left.open([bytes(MIN_FRAME + 2)], None)
    with pytest.raises(PayloadTooLarge):
        pair.left.notify([bytes(MIN_FRAME + 2)])
    assert pair.left.count(Side.OURS) == 1
    pair.right.send(stream_id, [bytes(MIN_FRAME)])
    assert pair.to_left(pair.right.end(stream_id)) == [Received(stream_id, bytes(MIN_FRAME), True)]


def test_ping_comes_back_as_pong(pair: Pair) -> None:
    assert pair.to_right(pair.left.ping(b"12345678")) == [Pinged(b"12345678")]
    assert pair.to_left(pair.right.pong(b"12345678")) == [Ponged(b"12345678")]


def test_a_goodbye_cannot_write_lines_of_its_own_into_a_log(pair: Pair) -> None:
    assert pair.to_right(pair.left.goodbye("bye\nERROR\x1b[31m")) == [Parted("bye ERROR [31m")]


def test_nothing_is_read_after_goodbye(pair: Pair) -> None:
    late = pair.left.notify([b"x"])
    goodbye = pair.left.goodbye("bye")
    assert pair.to_right([*goodbye, *late]) == [Parted("bye")]
    assert pair.to_right(late) == []


def test_a_goodbye_of_any_length_and_alphabet_travels(pair: Pair) -> None:
    assert pair.to_right(pair.left.goodbye("€" * 5000)) == [Parted("€" * 1000)]


@pytest.mark.parametrize(
    ("kind", "stream_id", "payload"),
    [
        (FrameType.HELLO, 0, b""),
        (FrameType.OPEN, 1, bytes(7)),
        (FrameType.OPEN, 2, bytes(9)),
        (FrameType.DATA, 1, b"x"),
        (FrameType.DATA, 2, b"x"),
        (FrameType.DATA, 2, b""),
        (FrameType.ERROR, 2, b"\xc1"),
        (FrameType.ERROR, 2, b"\x91" * 60_000),
        (FrameType.ERROR, 1, b"\x92\xa1x\xa1y"),
        (FrameType.CANCEL, 1, b""),
        (FrameType.CANCEL, 2, b""),
        (FrameType.CREDIT, 2, b"\x00\x00\x00\x01"),
        (FrameType.CREDIT, 1, b"\x01"),
        (FrameType.PING, 0, b"short"),
    ],
    ids=str,
)
def test_a_frame_without_sense_or_place_breaks_the_connection(
    pair: Pair, kind: FrameType, stream_id: int, payload: bytes
) -> None:
    (event,) = pair.to_right(encode_frame(kind, stream_id, [payload]))
    assert isinstance(event, Broken)
    assert pair.right.state is ConnectionState.CLOSED


def test_a_stream_cannot_be_opened_twice(pair: Pair) -> None:
    _, buffers = pair.left.open([b"x"], None)
    _, again = pair.to_right([*buffers, *buffers])
    assert isinstance(again, Broken)


def test_what_came_before_the_break_is_told(pair: Pair) -> None:
    stream_id, buffers = pair.left.open([b"x"], None)
    first, last = pair.to_right([*buffers, b"\xff" * 10])
    assert first == Opened(stream_id, None, b"x")
    assert isinstance(last, Broken)


def test_wrong_moves_of_this_side_are_mistakes_of_this_program(pair: Pair) -> None:
    assert not pair.right.can_send(1)
    for move in (pair.right.end, pair.left.cancel):
        with pytest.raises(LocalProtocolError, match="IDLE"):
            move(1)
    stream_id = pair.opened()
    with pytest.raises(LocalProtocolError, match="SEND_CANCEL"):
        pair.right.cancel(stream_id)
    with pytest.raises(LocalProtocolError, match="not ready"):
        WireProtocol(LEFT, dials=True).open([b"x"], None)


@pytest.mark.parametrize("first", [FrameType.OPEN, FrameType.DATA, FrameType.PING])
def test_nothing_comes_before_hello(first: FrameType) -> None:
    protocol = WireProtocol(LEFT, dials=True)
    size = 8 if first is FrameType.PING else 9
    frame = encode_frame(first, 0 if first is FrameType.PING else 2, [bytes(size)])
    (event,) = protocol.receive_data(preface() + join(frame))
    assert isinstance(event, Broken)


@pytest.mark.parametrize(
    "hello",
    [
        b"\x84\xa4role\xa5thief\xa7node_id\xa1x",
        b"\x82\xa4role\xa6client\xa7node_id\xda\x01\x01" + b"x" * 257,
        b"\x82\xa4role\xa6client\xa7node_id\xa2x\n",
        b"\x83\xa4role\xa6client\xa7node_id\xa1x\xa6credit\x00",
        b"\x83\xa4role\xa6client\xa7node_id\xa1x\xa9max_frame\x01",
        b"",
    ],
    ids=range(6),
)
def test_a_hello_that_makes_no_sense_is_refused(hello: bytes) -> None:
    (event,) = WireProtocol(LEFT, dials=False).receive_data(preface() + join(encode_frame(FrameType.HELLO, 0, [hello])))
    assert isinstance(event, Broken)


def test_a_preface_may_come_byte_by_byte() -> None:
    protocol = WireProtocol(RIGHT, dials=False)
    wire = join(WireProtocol(LEFT, dials=True).begin())
    events = [event for at in range(len(wire)) for event in protocol.receive_data(wire[at : at + 1])]
    assert events == [Ready(LEFT)]


def test_who_is_not_shoal_is_not_told_goodbye_and_another_version_is() -> None:
    protocol = WireProtocol(RIGHT, dials=False)
    (event,) = protocol.receive_data(b"GET / HTTP/1.1\r\n")
    assert isinstance(event, Broken)
    assert not protocol.understands_goodbye

    protocol = WireProtocol(RIGHT, dials=False)
    (event,) = protocol.receive_data(preface(2))
    assert isinstance(event, Broken)
    assert "version 1" in event.error.message
    assert "version 2" in event.error.message
    assert protocol.understands_goodbye


def test_the_tables_name_every_state_and_lead_nowhere_unknown() -> None:
    assert CONNECTION.keys() == set(ConnectionState)
    assert STREAM.keys() == {(side, state) for side in Side for state in StreamState}
    assert {move for moves in STREAM.values() for move in moves} == set(Move)


def valid_traffic() -> bytes:
    """What a left side may say, over several streams."""
    pair = Pair()
    wire = join(pair.left.begin())
    for number in range(3):
        stream_id, buffers = pair.left.open([b"ask %d" % number], 1)
        wire += join(buffers) + join(pair.left.credit(stream_id, 4))
    wire += join(pair.left.notify([b"news"])) + join(pair.left.cancel(3)) + join(pair.left.ping(bytes(8)))
    wire += join(encode_frame(FrameType.DATA, 2, [b"answer"]))
    return wire + join(pair.left.goodbye("bye"))


TRAFFIC = valid_traffic()


def cut(wire: bytes, cuts: list[int]) -> list[bytes]:
    cuts = sorted(cuts)
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


def receiver() -> WireProtocol:
    """A right side that has asked something itself, on stream 2, and has heard nothing yet."""
    protocol = WireProtocol(RIGHT, dials=False)
    protocol.state = ConnectionState.OPEN
    protocol.peer = LEFT
    protocol.open([b"x"], None)
    protocol.state = ConnectionState.PREFACE
    return protocol


def described(events: Iterable[Event]) -> list[str]:
    """Comparable, and the same whichever kind of buffer a payload came in."""
    return [
        repr(msgspec.structs.replace(event, payload=bytes(event.payload or b"")))
        if isinstance(event, Opened | Received)
        else repr(event)
        for event in events
    ]


@given(st.data())
@settings(max_examples=300)
def test_hostile_traffic_ends_in_broken_at_worst_and_the_same_way_however_it_is_cut(data: st.DataObject) -> None:
    wire = bytearray(TRAFFIC)
    for _ in range(data.draw(st.integers(0, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    traffic = bytes(wire[: data.draw(st.integers(0, len(wire)))]) + data.draw(st.binary(max_size=20))
    pieces = cut(traffic, data.draw(st.lists(st.integers(0, len(traffic)), max_size=8)))
    whole, piecewise = receiver(), receiver()
    events = [event for piece in pieces for event in piecewise.receive_data(piece)]
    assert described(events) == described(whole.receive_data(traffic))
    assert all(not isinstance(event, Broken | Parted) for event in events[:-1])
    assert len(piecewise._reader._payload) <= len(traffic)


@given(st.binary(max_size=100))
def test_random_bytes_break_the_connection_and_nothing_else(noise: bytes) -> None:
    for start in (b"", join(receiver().begin())):
        protocol = receiver()
        protocol.receive_data(start + noise)
        assert len(protocol._reader._payload) <= len(noise)


def test_a_frame_that_announces_too_much_breaks_at_its_header(pair: Pair) -> None:
    header = struct.pack("!IBBI", RIGHT.max_frame + 1, FrameType.OPEN, 0, 1)
    (event,) = pair.to_right([header])
    assert isinstance(event, Broken)
    assert "over the limit" in event.error.message
