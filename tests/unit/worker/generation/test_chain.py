"""Which step can follow another without a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from shoal.engines.base import Row
from shoal.engines.toy import EOS, ToyEngine
from shoal.errors import EngineFailed
from shoal.types import Sampling
from shoal.worker.generation import Limits
from shoal.worker.generation.chain import following
from shoal.worker.generation.sampler import Sampled
from shoal.worker.generation.scheduler import Planned
from shoal.worker.generation.sequence import TokenSequence
from shoal.worker.generation.stepper import Outcome

BLOCK = 4


def decoding(*, said: int = 2, max_length: int = 20, **sampling: bool) -> Planned:
    """A prompt of three tokens; the last that it has said is computed."""
    sequence = TokenSequence((1, 2, 3), Sampling(**sampling), max_length, output=[9] * said)  # type: ignore[arg-type]
    blocks = range(-(-sequence.length // BLOCK))
    row = Row((9,), sequence.length - 1, tuple(blocks), wants_logits=True, generated=True)
    return Planned(sequence, row)


def after(planned: Planned, outcome: Outcome, *others: Planned) -> list[Planned] | None:
    outcomes = [outcome, *(Sampled(7) for _ in others)]
    return following([planned, *others], outcomes, frozenset({EOS}), BLOCK)


def test_the_next_step_has_the_new_token_at_the_next_position() -> None:
    planned = decoding()

    assert after(planned, Sampled(7)) == [
        Planned(planned.sequence, Row((7,), 5, (0, 1), wants_logits=True, generated=True))
    ]
    assert planned.sequence.output == [9, 9, 7]


def test_a_prompt_is_followed_by_its_first_token() -> None:
    sequence = TokenSequence((1, 2, 3), Sampling(), max_length=20)

    rows = after(Planned(sequence, Row((2, 3), 1, (0,), wants_logits=True)), Sampled(7))

    assert rows == [Planned(sequence, Row((7,), 3, (0,), wants_logits=True, generated=True))]


@pytest.mark.parametrize(
    ("planned", "outcome"),
    [
        (decoding(said=5), Sampled(7)),  # its blocks are full
        (decoding(max_length=6), Sampled(7)),  # with this token it is as long as it may be
        (decoding(), Sampled(EOS)),
        (decoding(), EngineFailed("broken")),
        (decoding(), None),  # there is more of its prompt
    ],
)
def test_where_one_does_not_go_on_the_next_step_is_planned_and_nothing_has_changed(
    planned: Planned, outcome: Outcome
) -> None:
    other = decoding()
    said = list(planned.sequence.output)

    assert after(planned, outcome, other) is None
    assert (planned.sequence.output, other.sequence.output) == (said, [9, 9])


def test_an_end_of_text_that_is_to_be_ignored_ends_nothing() -> None:
    assert after(decoding(ignore_eos=True), Sampled(EOS)) is not None


async def test_steps_are_planned_only_where_something_changes(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(engine=ToyEngine(block_size=16))
    plans = Mock(side_effect=server.loop._scheduler.plan)
    monkeypatch.setattr(server.loop._scheduler, "plan", plans)

    chunk = await server.ask((1, 2, 3), max_tokens=60)

    assert len(chunk.tokens) == 60
    assert plans.call_count <= 6  # one a block, and one that finds nothing


async def test_a_prompt_for_which_a_step_had_no_room_is_in_the_next(serve: Callable[..., Any]) -> None:
    """It runs already, and nobody waits: the step before it must not be followed by another of its like."""
    server = serve(start=False, limits=Limits(step_tokens=64))
    asks = [asyncio.ensure_future(server.ask((number,) * 50, max_tokens=20)) for number in range(3)]
    while server.loop.load().waiting < 3 or server.loop._intake.count:
        await asyncio.sleep(0)

    server.loop.start()
    await asyncio.gather(*asks)

    assert sum(row.start == 0 for rows in list(server.engine.steps)[:5] for row in rows) == 3


async def test_what_fails_while_a_step_is_told_of_ends_the_loop_as_any_mistake_does(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []
    server = serve(on_unhealthy=reasons.append)

    def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(server.counts, "stepped", fail)

    with pytest.raises(EngineFailed):
        await server.ask((1, 2, 3), max_tokens=60)
    assert reasons == ["the server failed while it generated"]
