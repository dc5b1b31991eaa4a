from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from shoal.clock import now
from shoal.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    ProtocolError,
    ShoalError,
    WorkerLost,
)
from shoal.messages import Ack, Chunk, Deregister, Drain, Infer, Inferred, ListModels, Message
from shoal.rpc import Answers, Call, Connection, Hello, Keepalive, MemoryNetwork
from shoal.rpc.events import MIN_FRAME
from shoal.rpc.frames import MAGIC, FrameType, encode_frame, preface
from shoal.rpc.limits import CREDIT, KIB, MAX_REFUSED_NOTICES, MAX_STALL, MAX_UNPACED_BYTES, MIB, Budget
from shoal.rpc.protocol import LocalProtocolError
from shoal.rpc.states import Side
from shoal.types import ModelName, RequestId, WorkerId

Settle = Callable[[], Awaitable[None]]
MakePair = Callable[..., Awaitable[Any]]

ASK = ListModels()
BYE = Deregister(WorkerId("w1"), "bye")


def infer(*shape: int) -> Infer:
    return Infer(RequestId("r"), ModelName("echo"), {"x": np.ones(shape, np.float32)})


def chunk(number: int) -> Chunk:
    return Chunk(str(number), (number,))


async def acknowledge(_message: Message, call: Call) -> None:
    await call.send(Ack())


async def echo(message: Message, call: Call) -> None:
    assert isinstance(message, Infer)
    await call.send(Inferred(message.inputs))


async def sleep_for_ever(_message: Message, call: Call) -> None:
    await asyncio.sleep(1e6)
    await call.send(Ack())


class Numbers:
    """Streams 0, 1, 2 … up to ``count``, and says how it went."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sent = 0
        self.ended_by: type[BaseException] | None = None

    async def __call__(self, _message: Message, call: Call) -> None:
        try:
            for number in range(self.count):
                await call.send(chunk(number))
                self.sent = number + 1
        except BaseException as error:
            self.ended_by = type(error)
            raise


async def read(stream: Answers, into: list[Any]) -> None:
    async with stream as answers:
        async for answer in answers:
            into.append(answer)  # noqa: PERF401  (a comprehension would lose what came before an error)


async def test_a_call_gets_its_answer_and_each_side_knows_the_other(make_pair: MakePair) -> None:
    pair = await make_pair(acknowledge)
    assert await pair.left.call(ASK, timeout=1) == Ack()
    assert pair.left.peer.node_id == "w1"
    assert pair.right.peer.role == "coordinator"
    assert repr(pair.left) == "<Connection worker w1 at w1:9001, ready, calls out 0, in 0>"


async def test_a_handler_that_need_not_wait_answers_without_a_task(make_pair: MakePair) -> None:
    tasks: list[int] = []

    def at_once(_message: Message, call: Call) -> Ack:
        tasks.append(len(call.connection._inbound))
        return Ack()

    pair = await make_pair(at_once)
    assert await asyncio.gather(*(pair.left.call(ASK, timeout=1) for _ in range(3))) == [Ack()] * 3
    assert tasks == [0, 0, 0]
    assert await pair.left.first(ASK, timeout=1) == Ack()


async def test_an_answer_without_a_task_waits_for_the_transport(make_pair: MakePair, settle: Settle) -> None:
    pair = await make_pair(lambda _message, _call: Inferred({"x": np.zeros(100_000, np.uint8)}))
    pair.left._transport.pause_reading()
    calls = [asyncio.create_task(pair.left.call(ASK, timeout=1)) for _ in range(5)]
    await settle()
    assert len(pair.right._inbound) == 4  # one answer is on its way
    pair.left._transport.resume_reading()
    assert [answer.outputs["x"].shape for answer in await asyncio.gather(*calls)] == [(100_000,)] * 5


async def test_both_sides_ask_at_the_same_time(make_pair: MakePair) -> None:
    pair = await make_pair(acknowledge, left_handler=acknowledge)
    calls = [side.call(ASK, timeout=1) for side in (pair.left, pair.right) for _ in range(10)]
    assert await asyncio.gather(*calls) == [Ack()] * 20


async def test_a_handler_may_ask_back_on_the_same_connection(make_pair: MakePair) -> None:
    async def ask_back(_message: Message, call: Call) -> None:
        answer = await call.connection.call(ASK, timeout=1)
        assert isinstance(answer, Ack)
        await call.send(answer)

    pair = await make_pair(ask_back, left_handler=acknowledge)
    assert await pair.left.call(ASK, timeout=1) == Ack()


async def test_a_thousand_streams_share_a_connection(make_pair: MakePair) -> None:
    pair = await make_pair(Numbers(20))

    seen: list[list[Any]] = [[] for _ in range(1000)]
    await asyncio.gather(*(read(pair.left.stream(ASK, timeout=60), into) for into in seen))
    assert seen == [[chunk(n) for n in range(20)]] * 1000


async def test_tensors_travel_through_a_call(make_pair: MakePair) -> None:
    pair = await make_pair(echo)
    answer = await pair.left.call(infer(600, 700), timeout=60)
    np.testing.assert_array_equal(answer.outputs["x"], np.ones((600, 700), np.float32))


async def test_the_frames_of_one_turn_of_the_loop_are_one_write(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await make_pair(acknowledge)
    writes: list[bytes] = []
    write = pair.right._transport.write

    def watched(data: bytes) -> None:
        writes.append(data)
        write(data)

    monkeypatch.setattr(pair.right._transport, "write", watched)
    await asyncio.gather(*(pair.left.call(ASK, timeout=1) for _ in range(10)))
    ack = b"\0\0\0\x05\x91\xa3Ack"
    answers = [encode_frame(FrameType.DATA, 2 * n + 1, [ack], end=True, number=n + 2) for n in range(10)]
    assert writes == [b"".join(b"".join(frame) for frame in answers)]


async def test_a_call_that_gets_no_answer_or_two_is_a_protocol_error(make_pair: MakePair) -> None:
    async def none(_message: Message, _call: Call) -> None:
        return

    for handler, number in ((none, "no answer"), (Numbers(2), "more than one answer"), (Numbers(500), "more")):
        pair = await make_pair(handler)
        with pytest.raises(ProtocolError, match=number):
            await pair.left.call(ASK, timeout=1)


async def test_a_notice_reaches_the_handler_and_cannot_be_answered(make_pair: MakePair, settle: Settle) -> None:
    heard: list[Message] = []

    async def hear(message: Message, call: Call) -> None:
        heard.append(message)
        with pytest.raises(LocalProtocolError):
            await call.send(Ack())

    pair = await make_pair(hear)
    pair.left.notify(BYE)
    await settle()
    assert heard == [BYE]


async def test_a_request_that_wants_an_answer_but_opens_no_stream_ends_the_connection(
    make_pair: MakePair, settle: Settle
) -> None:
    numbers = Numbers(20)
    pair = await make_pair(numbers)
    pair.left.notify(ASK)
    await settle()
    assert pair.right.is_closed
    assert "needs a stream" in repr(pair.left)


async def test_a_peer_whose_notices_are_refused_again_and_again_is_left(
    make_pair: MakePair, settle: Settle, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_message: Message, _call: Call) -> None:
        raise InvalidRequest("who are you?")

    pair = await make_pair(refuse)
    for _ in range(MAX_REFUSED_NOTICES - 1):
        pair.left.notify(BYE)
    await settle()
    assert not pair.right.is_closed
    for _ in range(1000):
        pair.left.notify(BYE)
    await settle()
    assert pair.right.is_closed
    assert "of its notices were refused" in repr(pair.left)
    assert len(caplog.records) == MAX_REFUSED_NOTICES + 1


# -- errors of handlers


async def test_an_error_of_the_handler_is_raised_at_the_caller(make_pair: MakePair) -> None:
    async def refuse(_message: Message, _call: Call) -> None:
        raise Overloaded("full", param="batch", retry_after=2.5)

    def refuse_at_once(_message: Message, _call: Call) -> Ack:
        raise Overloaded("full", param="batch", retry_after=2.5)

    for handler in (refuse, refuse_at_once):
        pair = await make_pair(handler)
        with pytest.raises(Overloaded) as caught:
            await pair.left.call(ASK, timeout=1)
        assert (caught.value.message, caught.value.param, caught.value.retry_after) == ("full", "batch", 2.5)


@pytest.mark.parametrize("error", [ValueError("secret"), TimeoutError("secret"), LocalProtocolError("secret")])
async def test_a_mistake_in_a_handler_is_logged_and_not_told_to_the_peer(
    make_pair: MakePair, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def fail(_message: Message, _call: Call) -> None:
        raise error

    pair = await make_pair(fail)
    with caplog.at_level(logging.ERROR), pytest.raises(ShoalError) as caught:
        await pair.left.call(ASK, timeout=1)
    assert type(caught.value) is ShoalError
    assert "secret" not in caught.value.message
    assert "secret" in caplog.text


async def test_what_was_answered_before_an_error_arrives_before_it(make_pair: MakePair) -> None:
    async def some_then_fail(_message: Message, call: Call) -> None:
        await call.send(chunk(0))
        await call.send(chunk(1))
        raise InvalidRequest("no more")

    pair = await make_pair(some_then_fail)
    seen: list[Any] = []
    with pytest.raises(InvalidRequest, match="no more"):
        await read(pair.left.stream(ASK, timeout=1), seen)
    assert seen == [chunk(0), chunk(1)]


async def test_a_handler_that_its_own_process_stops_still_gives_an_answer(make_pair: MakePair) -> None:
    async def give_up(_message: Message, _call: Call) -> None:
        raise asyncio.CancelledError

    pair = await make_pair(give_up)
    with pytest.raises(WorkerLost, match="stopped where it ran"):
        await pair.left.call(ASK, timeout=1)


async def test_a_request_that_cannot_be_read_is_answered_with_what_is_wrong(make_pair: MakePair) -> None:
    pair = await make_pair(acknowledge)
    stream_id, inbox = await pair.left._outbound.open(ASK, 1)
    pair.left._outbound.leave(stream_id)
    pair.left._writer.write(encode_frame(FrameType.OPEN, 3, [bytes(8), b"\0\0\0\x01\xc1"], number=4))
    pair.left._protocol.open([], None)  # takes the numbers that the frame made by hand did
    pair.left._outbound._inboxes[3] = inbox
    with pytest.raises(ProtocolError, match="not valid"):
        await inbox.get()
    pair.left._outbound.leave(3)
    assert await pair.left.call(ASK, timeout=1) == Ack()


async def test_an_answer_that_cannot_be_read_is_not_the_askers_fault(make_pair: MakePair) -> None:
    async def answer_nonsense(_message: Message, call: Call) -> None:
        call._writer.write(call._protocol.send(call.stream_id, [b"\0\0\0\x01\xc1"]))

    pair = await make_pair(answer_nonsense)
    with pytest.raises(ProtocolError, match="answer is not valid"):
        await pair.left.call(ASK, timeout=1)


async def test_a_side_without_a_handler_refuses_requests(make_pair: MakePair) -> None:
    pair = await make_pair(acknowledge)
    with pytest.raises(InvalidRequest, match="takes no requests"):
        await pair.right.call(ASK, timeout=1)


# -- deadlines


async def test_a_call_without_an_answer_ends_at_its_deadline_on_both_sides(make_pair: MakePair, settle: Settle) -> None:
    pair = await make_pair(sleep_for_ever)
    began = now()
    with pytest.raises(DeadlineExceeded, match="2 s"):
        await pair.left.call(ASK, timeout=2)
    assert now() - began == pytest.approx(2)
    await settle()
    assert len(pair.right._inbound) == 0


async def test_the_side_that_works_keeps_the_deadline_even_if_nobody_cancels(make_pair: MakePair) -> None:
    seen: list[float | None] = []

    async def work(_message: Message, call: Call) -> None:
        seen.append(None if call.deadline is None else call.deadline - now())
        await asyncio.sleep(1e6)

    pair = await make_pair(work)
    async with pair.left.stream(ASK, timeout=2):
        pair.faults.stall()
    pair.faults.heal()
    async with pair.left.stream(ASK, timeout=2) as answers:
        pair.left._outbound._deadlines.remove(answers._stream_id)
        with pytest.raises(DeadlineExceeded):
            await answers.next()
    assert seen == [pytest.approx(2)]  # the first was cancelled before its first step


async def test_a_deadline_is_for_the_whole_stream(make_pair: MakePair) -> None:
    async def tick(_message: Message, call: Call) -> None:
        for number in range(100):
            await asyncio.sleep(1)
            await call.send(chunk(number))

    pair = await make_pair(tick)
    seen: list[Any] = []
    with pytest.raises(DeadlineExceeded):
        await read(pair.left.stream(ASK, timeout=5.5), seen)
    assert len(seen) == 5


async def test_a_deadline_ends_the_stream_even_if_its_reader_is_busy_elsewhere(make_pair: MakePair) -> None:
    pair = await make_pair(sleep_for_ever)
    async with pair.left.stream(ASK, timeout=2):
        pair.faults.stall()
        await asyncio.sleep(3)
        assert pair.left._protocol.count(Side.OURS) == 0
        pair.faults.heal()


async def test_no_time_left_is_no_request(make_pair: MakePair) -> None:
    pair = await make_pair(acknowledge)
    with pytest.raises(DeadlineExceeded, match="no time"):
        await pair.left.call(ASK, timeout=0)


async def test_a_hostile_timeout_is_only_a_long_one(make_pair: MakePair, settle: Settle) -> None:
    pair = await make_pair(sleep_for_ever)
    async with pair.left.stream(ASK, timeout=2.0**50):
        await settle()
        assert len(pair.right._inbound) == 1


# -- cancellation


async def test_leaving_a_stream_early_cancels_the_work(make_pair: MakePair, settle: Settle) -> None:
    numbers = Numbers(10**6)
    pair = await make_pair(numbers)
    async with pair.left.stream(ASK, timeout=60) as answers:
        assert (await anext(answers)).text == "0"
    await settle()
    assert numbers.ended_by is asyncio.CancelledError
    assert len(pair.right._inbound) == 0


async def test_cancelling_a_call_cancels_the_work(make_pair: MakePair, settle: Settle) -> None:
    pair = await make_pair(sleep_for_ever)
    task = asyncio.create_task(pair.left.call(ASK, timeout=60))
    await settle()
    assert len(pair.right._inbound) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert len(pair.right._inbound) == 0


async def test_a_request_cancelled_before_it_began_never_runs(make_pair: MakePair, settle: Settle) -> None:
    ran = []

    async def run(_message: Message, _call: Call) -> None:
        ran.append(True)

    pair = await make_pair(run)
    async with pair.left.stream(ASK, timeout=60):
        pass
    await settle()
    assert ran == []


async def test_a_handler_that_ignores_its_cancellation_can_send_nothing(make_pair: MakePair, settle: Settle) -> None:
    refused = []

    async def stubborn(_message: Message, call: Call) -> None:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            try:
                await call.send(Ack())
            except Cancelled:
                refused.append(True)

    pair = await make_pair(stubborn)
    async with pair.left.stream(ASK, timeout=60):
        await settle()
    await settle()
    assert refused == [True]


# -- flow


async def test_a_fast_sender_waits_for_a_slow_reader(make_pair: MakePair, settle: Settle) -> None:
    numbers = Numbers(1000)
    pair = await make_pair(numbers)
    async with pair.left.stream(ASK, timeout=60) as answers:
        await settle()
        assert numbers.sent == CREDIT
        assert len(answers._inbox) == CREDIT
        for taken in range(1, 200):
            await anext(answers)
            await settle()
            assert len(answers._inbox) <= CREDIT
            assert numbers.sent <= taken + CREDIT
        assert [int(answer.text) async for answer in answers] == list(range(199, 1000))


async def test_a_stream_nobody_reads_does_not_hold_up_another(make_pair: MakePair, settle: Settle) -> None:
    pair = await make_pair(Numbers(1000))
    async with pair.left.stream(ASK, timeout=60) as unread:
        await settle()
        async with pair.left.stream(ASK, timeout=60) as answers:
            assert len([answer async for answer in answers]) == 1000
        assert len(unread._inbox) == CREDIT


async def test_the_smallest_window_works(make_pair: MakePair) -> None:
    pair = await make_pair(Numbers(50), left_hello=Hello("client", "c", credit=1))
    async with pair.left.stream(ASK, timeout=60) as answers:
        assert len([answer async for answer in answers]) == 50


async def test_a_sender_waits_for_the_transport_and_its_deadline_ends_the_wait(
    make_pair: MakePair, settle: Settle
) -> None:
    pair = await make_pair(echo)
    pair.faults.stall()
    calls = [asyncio.create_task(pair.left.call(infer(MIB), timeout=1)) for _ in range(5)]
    await settle()
    assert pair.left._transport.get_write_buffer_size() < 5 * MIB  # one request is on its way, four wait
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {DeadlineExceeded}
    pair.faults.heal()
    answer = await pair.left.call(infer(3), timeout=1)
    assert answer.outputs["x"].shape == (3,)


async def test_a_handler_waits_for_the_transport(make_pair: MakePair) -> None:
    sent = 0

    async def flood(_message: Message, call: Call) -> None:
        nonlocal sent
        for _ in range(30):
            await call.send(Inferred({"x": np.zeros(100_000, np.uint8)}))
            sent += 1

    pair = await make_pair(flood)
    pair.faults.delay = 1.0  # what is written is under way for a while
    received = 0
    async with pair.left.stream(ASK, timeout=60) as answers:
        async for _ in answers:
            received += 1
            assert sent <= received + 4
    assert received == 30


async def test_a_peer_that_takes_nothing_is_given_up_when_it_is_owed_too_much(
    make_pair: MakePair, settle: Settle
) -> None:
    pair = await make_pair(acknowledge)
    pair.faults.stall()
    notice = Deregister(WorkerId("w1"), "x" * 100_000)
    for _ in range(MAX_UNPACED_BYTES // 100_000):
        pair.left.notify(notice)
        await settle()
    assert not pair.left.is_closed
    pair.left.notify(notice)
    pair.left.notify(notice)
    with pytest.raises(WorkerLost, match="does not take"):
        pair.left.notify(notice)
    pair.faults.heal()


async def test_a_peer_with_too_many_requests_is_told_so_on_that_stream(make_pair: MakePair, settle: Settle) -> None:
    budget = Budget(calls=2)
    pair = await make_pair(sleep_for_ever, budget=budget)
    tasks = [asyncio.create_task(pair.left.call(ASK, timeout=60)) for _ in range(2)]
    await settle()
    with pytest.raises(Overloaded, match="as many requests"):
        await pair.left.call(ASK, timeout=60)
    pair.left.notify(BYE)  # refused as well, in silence
    await settle()
    assert len(pair.right._inbound) == 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settle()
    assert budget.has_room(0)
    budget._calls = Budget()._calls


async def test_an_answer_the_peer_cannot_take_fails_its_own_stream_only(make_pair: MakePair) -> None:
    pair = await make_pair(echo, left_hello=Hello("client", "c", max_frame=MIN_FRAME))
    with pytest.raises(PayloadTooLarge, match=str(MIN_FRAME)):
        await pair.left.call(infer(MIN_FRAME), timeout=1)
    await pair.left.call(infer(KIB), timeout=1)


async def test_a_request_the_peer_cannot_take_is_refused_here(make_pair: MakePair) -> None:
    pair = await make_pair(echo, right_hello=Hello("worker", "w1", max_frame=MIN_FRAME))
    with pytest.raises(PayloadTooLarge):
        await pair.left.call(infer(MIN_FRAME), timeout=1)
    await pair.left.call(infer(KIB), timeout=1)


async def test_an_answer_that_nobody_reads_ends_after_a_minute(make_pair: MakePair, settle: Settle) -> None:
    ended: list[float] = []

    async def talk(_message: Message, call: Call) -> None:
        try:
            for index in range(1000):
                await call.send(chunk(index))
        finally:
            ended.append(now())

    pair = await make_pair(talk, left_hello=Hello("client", "c", credit=4))
    began = now()
    async with pair.left.stream(ASK, timeout=None) as answers:
        await asyncio.sleep(50)
        assert [(await anext(answers)).text for _ in range(4)] == ["0", "1", "2", "3"]  # grants credit
        await asyncio.sleep(50)
        assert not ended
        await asyncio.sleep(11)
        assert ended == pytest.approx([began + 50 + MAX_STALL])
        with pytest.raises(DeadlineExceeded, match="nobody has read"):
            async for _ in answers:
                pass


# -- the end


async def test_a_lost_connection_fails_every_call_at_once_and_ends_every_handler(
    make_pair: MakePair, settle: Settle
) -> None:
    pair = await make_pair(sleep_for_ever, left_handler=sleep_for_ever)
    began = now()
    calls = [asyncio.create_task(side.call(ASK, timeout=60)) for side in (pair.left, pair.right) for _ in range(5)]
    await settle()
    pair.faults.cut()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {WorkerLost}
    assert "worker w1 at w1:9001" in str(results[0])
    assert now() - began < 1e-3
    await pair.left.wait_closed()
    await pair.right.wait_closed()
    with pytest.raises(WorkerLost):
        await pair.left.call(ASK, timeout=1)
    with pytest.raises(WorkerLost):
        pair.left.notify(BYE)
    assert "closed: the connection broke" in repr(pair.left)


async def test_answers_that_came_before_the_loss_are_read_before_it_is_told(
    make_pair: MakePair, settle: Settle
) -> None:
    async def two_of_many(_message: Message, call: Call) -> None:
        await call.send(chunk(0))
        await call.send(chunk(1))
        await asyncio.sleep(1e6)

    pair = await make_pair(two_of_many)
    async with pair.left.stream(ASK, timeout=60) as answers:
        await settle()
        pair.faults.cut()
        await settle()
        assert [(await anext(answers)).text for _ in range(2)] == ["0", "1"]
        with pytest.raises(WorkerLost):
            await anext(answers)


async def test_a_loss_ends_the_wait_for_the_transport_and_for_credit(make_pair: MakePair, settle: Settle) -> None:
    numbers = Numbers(1000)
    pair = await make_pair(numbers)
    async with pair.left.stream(ASK, timeout=60):
        await settle()
        pair.faults.stall()
        calls = [asyncio.create_task(pair.left.call(infer(MIB), timeout=60)) for _ in range(3)]
        await settle()
        pair.faults.cut()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {WorkerLost}
    await pair.right.wait_closed()
    assert numbers.ended_by is asyncio.CancelledError


async def test_close_says_why_and_ends_the_calls_of_both_sides(make_pair: MakePair, settle: Settle) -> None:
    pair = await make_pair(sleep_for_ever, left_handler=sleep_for_ever)
    calls = [asyncio.create_task(side.call(ASK, timeout=60)) for side in (pair.left, pair.right)]
    await settle()
    await pair.left.close("maintenance")
    await pair.right.wait_closed()
    ours, theirs = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ours, WorkerLost)
    assert isinstance(theirs, WorkerLost)
    assert "said goodbye: maintenance" in theirs.message


async def test_an_answer_given_just_before_close_still_arrives(make_pair: MakePair) -> None:
    async def answer_and_close(_message: Message, call: Call) -> None:
        await call.send(Ack())
        call.end()
        await call.connection.close("done")

    pair = await make_pair(answer_and_close)
    assert await pair.left.call(ASK, timeout=1) == Ack()


async def test_close_waits_for_handlers_to_clean_up_and_cancels_them_once(make_pair: MakePair, settle: Settle) -> None:
    cleaned = []

    async def careful(_message: Message, _call: Call) -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(3)
            cleaned.append(True)

    pair = await make_pair(careful)
    task = asyncio.create_task(pair.left.call(ASK, timeout=60))
    await settle()
    await pair.right.close()
    assert cleaned == [True]
    with pytest.raises(WorkerLost):
        await task


async def test_close_does_not_wait_long_for_a_peer_that_takes_nothing(make_pair: MakePair, settle: Settle) -> None:
    pair = await make_pair(echo)
    pair.faults.stall()
    call = asyncio.create_task(pair.left.call(infer(MIB), timeout=60))
    await settle()
    began = now()
    await pair.left.close()
    assert now() - began < 2
    with pytest.raises(WorkerLost):
        await call
    pair.faults.heal()


# -- keepalive


async def test_a_half_open_peer_is_noticed_by_its_silence(make_pair: MakePair) -> None:
    pair = await make_pair(sleep_for_ever, keepalive=Keepalive(interval=2, timeout=1))
    began = now()
    pair.faults.partition()
    with pytest.raises(WorkerLost, match="silent"):
        await pair.left.call(ASK, timeout=60)
    assert now() - began == pytest.approx(3)
    await pair.right.wait_closed()


async def test_a_quiet_peer_that_answers_pings_is_kept(make_pair: MakePair) -> None:
    pair = await make_pair(sleep_for_ever, keepalive=Keepalive(interval=2, timeout=1))
    with pytest.raises(DeadlineExceeded):
        await pair.left.call(ASK, timeout=600)


async def test_a_ping_brings_a_sign_of_life_without_any_handler(make_pair: MakePair) -> None:
    pair = await make_pair()
    await asyncio.sleep(5)
    heard = pair.left.heard
    pair.left.ping()
    await asyncio.sleep(0.01)
    assert pair.left.heard == pytest.approx(5, abs=0.01)
    assert heard == 0
    await pair.left.close()
    pair.left.ping()  # nobody is there any more


async def test_a_peer_that_slowly_takes_a_long_frame_is_not_silent(make_pair: MakePair) -> None:
    pair = await make_pair(echo, keepalive=Keepalive(interval=2, timeout=1))
    pair.right._transport.pause_reading()
    call = asyncio.create_task(pair.left.call(infer(10 * KIB, KIB), timeout=60))
    await asyncio.sleep(0)
    transport = pair.left._transport
    _, whole = transport._way.pop()
    transport._way.extend((now() + n, whole[n * 2 * MIB : (n + 1) * 2 * MIB]) for n in range(20))  # 2 MiB/s
    pair.right._transport.resume_reading()
    answer = await call
    assert answer.outputs["x"].shape == (10 * KIB, KIB)


# -- the handshake


class Stranger(asyncio.Protocol):
    """Says what it is told to and remembers what it hears."""

    def __init__(self, says: bytes) -> None:
        self.says = says
        self.heard = b""
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.says)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def meet(says: bytes) -> tuple[Connection, Stranger]:
    network = MemoryNetwork()
    stranger = Stranger(says)
    await network.listen("x:1", lambda: stranger)
    connection = await network.connect("x:1", lambda: Connection(hello=Hello("client", "c"), dials=True), timeout=1)
    return connection, stranger


async def test_a_peer_that_is_not_shoal_is_left_with_a_protocol_error() -> None:
    connection, stranger = await meet(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ProtocolError, match="does not speak"):
        await connection.ready(1)
    await stranger.lost.wait()
    await connection.wait_closed()
    assert b"does not speak" not in stranger.heard


async def test_a_peer_of_another_version_is_told_both_versions() -> None:
    connection, stranger = await meet(preface(7))
    with pytest.raises(ProtocolError, match=r"version 1 .* version 7"):
        await connection.ready(1)
    await stranger.lost.wait()
    await connection.wait_closed()
    assert stranger.heard.startswith(MAGIC)
    reason = b"this side speaks version 1 of the protocol, the other version 7"
    assert stranger.heard.endswith(b"".join(encode_frame(FrameType.GOODBYE, 0, [reason])))


async def test_a_peer_that_says_nothing_is_left_in_time() -> None:
    connection, stranger = await meet(b"")
    with pytest.raises(DeadlineExceeded):
        await connection.ready(2)
    with pytest.raises(WorkerLost, match="introduce itself within 10"):
        await connection.ready(60)
    await stranger.lost.wait()
    await connection.wait_closed()


async def test_nothing_can_be_asked_before_the_handshake() -> None:
    connection, _ = await meet(b"")
    with pytest.raises(LocalProtocolError, match="not ready"):
        await connection.call(ASK, timeout=1)
    with pytest.raises(ProtocolError, match="introduced"):
        _ = connection.peer
    assert "handshake" in repr(connection)
    await connection.close()


async def test_a_peer_that_breaks_the_protocol_is_told_how(make_pair: MakePair) -> None:
    pair = await make_pair(sleep_for_ever)
    task = asyncio.create_task(pair.left.call(ASK, timeout=60))
    await asyncio.sleep(0)
    pair.left._writer.write([bytes(10)])
    with pytest.raises(WorkerLost, match="said goodbye: there is no frame of type 0"):
        await task
    await pair.right.wait_closed()


async def test_a_stream_of_garbage_harms_nobody(make_pair: MakePair) -> None:
    pair = await make_pair(acknowledge)
    pair.faults.tamper = lambda data: data[:-1] + b"\xff" + data
    results = await asyncio.gather(*(pair.left.call(Drain(1.0), timeout=1) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(result, ShoalError) for result in results)


async def test_connections_that_are_over_are_forgotten(make_pair: MakePair) -> None:
    pair = await make_pair(acknowledge)
    await pair.left.call(ASK, timeout=1)
    await pair.left.close()
    await pair.right.wait_closed()
    gc.collect()
    assert pair.faults.ends == set()


async def test_the_first_answer_is_taken_and_the_rest_is_not_wanted(make_pair: MakePair, settle: Settle) -> None:
    numbers = Numbers(10_000)
    pair = await make_pair(numbers)
    assert await pair.left.first(ASK, timeout=60) == chunk(0)
    await settle()
    assert numbers.ended_by is asyncio.CancelledError


async def test_the_first_of_no_answers_is_none(make_pair: MakePair) -> None:
    async def none(_message: Message, _call: Call) -> None:
        return

    pair = await make_pair(none)
    assert await pair.left.first(ASK, timeout=1) is None


async def test_who_waits_for_the_first_answer_is_told_what_ended_it(make_pair: MakePair, settle: Settle) -> None:
    async def refuse(_message: Message, _call: Call) -> None:
        raise InvalidRequest("no", param="x")

    pair = await make_pair(refuse)
    with pytest.raises(InvalidRequest, match="no"):
        await pair.left.first(ASK, timeout=1)
    pair = await make_pair(sleep_for_ever)
    with pytest.raises(DeadlineExceeded):
        await pair.left.first(ASK, timeout=1)
    waits = asyncio.create_task(pair.left.first(ASK, timeout=60))
    await settle()
    await pair.right.close("enough")
    with pytest.raises(WorkerLost, match="enough"):
        await waits


async def test_who_stops_waiting_for_the_first_answer_cancels_the_request(make_pair: MakePair, settle: Settle) -> None:
    ended: list[type[BaseException]] = []

    async def wait(_message: Message, _call: Call) -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(type(error))
            raise

    pair = await make_pair(wait)
    waits = asyncio.create_task(pair.left.first(ASK, timeout=60))
    await settle()
    waits.cancel()
    await settle()
    assert ended == [asyncio.CancelledError]
