"""What must hold of every request, whatever happened to the fleet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from sim.asking import SHORT, Asked, Kind

from shoal.coordinator.admission.fair_queue import PROMOTION
from shoal.errors import Cancelled, DeadlineExceeded, Draining, EngineFailed, Overloaded, WorkerLost

LATE: Final = 0.5  # seconds after its deadline that a request may end
AT_ONCE: Final = 0.05  # seconds to say no
PATIENT: Final = 10.0  # seconds that a tenant who seldom asks waits at most for its turn, whatever the others want


def wrong(asked: Asked, *, failing: int = 0, stopped: bool = False) -> Iterator[str]:
    """``failing``: engines that fail; ``stopped``: the coordinator stopped meanwhile."""
    expected = list(range(asked.length))
    if asked.tokens != expected[: len(asked.tokens)]:
        yield f"its tokens are {asked.tokens}"
    if not asked.end:
        yield "it has no end"
    if asked.end == "finished" and (len(asked.tokens), asked.finished) != (asked.length, 1):
        yield f"{len(asked.tokens)} tokens of {asked.length}, {asked.finished} ends"
    if asked.end != "finished" and asked.finished and asked.leaves_at is None and asked.leaves_after is None:
        yield f"it was whole, and then ended with {asked.end}"
    if asked.took > asked.timeout + LATE:
        yield f"it took {asked.took:.1f} s and had {asked.timeout:g} s"
    if asked.end not in allowed(asked, failing=failing, stopped=stopped):
        yield f"it ended with {asked.end} after {asked.took:.2f} s and {len(asked.tokens)} tokens"


def allowed(asked: Asked, *, failing: int, stopped: bool) -> Collection[str]:
    """Somebody can always go on; so an answer ends early only for what its client or three engines did, or with its
    coordinator, unless its client knows another one."""
    may = {"finished"}
    if asked.leaves_at is not None or asked.leaves_after is not None:
        may.add("left")
    if not asked.tokens and asked.took <= AT_ONCE:
        may.add(Overloaded.code)
    if asked.timeout <= SHORT:
        may |= {DeadlineExceeded.code, WorkerLost.code, Overloaded.code}
    if failing >= (1 if asked.timeout <= SHORT else 3):
        may.add(EngineFailed.code)
    if stopped and asked.kind is not Kind.CLIENT:
        may |= {Draining.code, WorkerLost.code, Cancelled.code}
    return may


def overtaken(asked: Iterable[Asked]) -> Iterator[str]:
    """Of one tenant's requests for one model, who waits goes before those that come so much later that no priority
    makes up for it."""
    lines = defaultdict[tuple[str, str], list[Asked]](list)
    for one in asked:
        if one.kind is not Kind.CLIENT:
            lines[one.model, one.tenant].append(one)
    for line in lines.values():
        for late in line:
            for other in line:
                behind = other.began - PROMOTION * other.priority > late.began + PROMOTION * (1 - late.priority)
                turn = _turn(other)
                if behind and turn is not None and late.turn is not None and late.began < turn < late.turn:
                    yield f"one that came at {late.began:.2f} was overtaken by one of {other.began:.2f}"


def _turn(asked: Asked) -> float | None:
    if asked.turn is not None:
        return asked.turn
    return asked.began if asked.tokens else None  # it did not wait, or was refused


def starved(asked: Iterable[Asked]) -> Iterator[str]:
    for one in asked:
        waited = (one.took if one.turn is None else one.turn - one.began) if one.tenant == "seldom" else 0.0
        if waited > PATIENT and (one.turn is not None or not one.tokens):
            yield f"one of a tenant that seldom asks waited {waited:.1f} s"
