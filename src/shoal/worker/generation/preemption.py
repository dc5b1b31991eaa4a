"""Who gives way to whom, and when it may come back. Plain decisions: no engine, no clock.

A sequence *stands* where its class of priority and its age put it: every :data:`PROMOTION` seconds of waiting, all
told, count as a class. What it has gained it keeps while it runs. Places and blocks go to those that stand higher;
who stands lowest, and among equals was let in last, gives way first.

Age alone takes nothing from anybody: a sequence makes others give way by its class, and they hold on by class and age.
So a victim never takes the place of the one that took its own, and whoever has waited ``2 · MAX_PRIORITY · PROMOTION``
seconds gives way to no newcomer any more and is overtaken by none.

Within a class those that are in the middle of an answer take turns where there are fewer places: each runs for
:data:`TURN` seconds at least, and waits for hardly more where a few are too many.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from shoal.batcher.policy import MAX_PRIORITY
from shoal.worker.generation.blocks import BlockPool
from shoal.worker.generation.sequence import TokenSequence

PROMOTION = 10.0  # seconds of waiting that count as much as a class
TURN = 0.25  # seconds: shorter than a pause that a reader minds


def class_of(sequence: TokenSequence) -> int:
    return min(max(sequence.priority, -MAX_PRIORITY), MAX_PRIORITY)


def standing(sequence: TokenSequence, waited: float) -> int:
    return class_of(sequence) + int(waited / PROMOTION)


def in_order(running: Iterable[TokenSequence]) -> list[TokenSequence]:
    """The first to be served first, the first to give way last; ``running`` in the order they were let in.

    Of equals those come first whose clients read already, as they do of an answer that was begun elsewhere.
    """
    return sorted(running, key=lambda sequence: (-sequence.standing, not sequence.output))


def gives_way(sequence: TokenSequence, newcomer: TokenSequence) -> bool:
    """Does one that runs give way to one that waits?"""
    return sequence.standing < class_of(newcomer)


def have_had_a_turn(running: Iterable[TokenSequence], at: float) -> dict[int, list[TokenSequence]]:
    """Those of each class that may be parked for others of it, in the same order. One that has not yet computed all it
    knows has not had its turn."""
    found: dict[int, list[TokenSequence]] = defaultdict(list)
    for sequence in running:
        if at - sequence.let_in >= TURN and sequence.computed + 1 == sequence.length:
            found[class_of(sequence)].append(sequence)
    return found


@dataclass(frozen=True, slots=True)
class Need:
    """What a newcomer lacks."""

    place: bool
    blocks: int  # beyond those that are available; less than none where some are left over
    shared: frozenset[int] = frozenset()  # blocks that it will hold too: nobody's parting frees them


@dataclass(slots=True)
class Way:
    """What must be done before it can be let in."""

    park: list[TokenSequence] = field(default_factory=list)  # these stop running, and keep their blocks
    drop: list[TokenSequence] = field(default_factory=list)  # these lose their blocks


def make_way(
    newcomer: TokenSequence,
    need: Need,
    *,
    running: Sequence[TokenSequence],
    parked: Iterable[TokenSequence],
    growing: Container[TokenSequence],
    pool: BlockPool,
) -> Way | None:
    """The least that others must give up; None, and nobody gives up anything, if that were not enough.

    ``running`` as :func:`in_order` has them; ``parked`` the one that comes back last first. For each of those that are
    ``growing`` a block is kept free, until it runs no more.
    """
    victims = [sequence for sequence in reversed(running) if gives_way(sequence, newcomer)]
    if need.place and not victims:
        return None
    way, lacks = Way(), need.blocks
    if need.place:
        way.park.append(victims.pop(0))
        lacks -= way.park[0] in growing
    held = Counter(dict.fromkeys(need.shared, -1))  # by one more, who does not let go
    for sequence in [*parked, *way.park, *victims]:
        if lacks <= 0:
            return way
        if sequence in victims:
            way.park.append(sequence)
            lacks -= sequence in growing
        way.drop.append(sequence)
        lacks -= _freed(sequence.blocks, held, pool)
    return way if lacks <= 0 else None


def _freed(blocks: Iterable[int], held: Counter[int], pool: BlockPool) -> int:
    """Of these blocks, those that nobody holds any more; ``held`` counts who has let go, and is brought up to date."""
    held.update(blocks)
    return sum(held[block] == pool.holders(block) for block in blocks)
