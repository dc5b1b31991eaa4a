"""When a request that was let in may be sent to a worker: each model has a line, here it is waited in.

Where nobody waits and there is room, a turn is a count up and a count down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from shoal.clock import now
from shoal.coordinator.admission.demand import demand, rows_of
from shoal.coordinator.admission.door import Admission
from shoal.coordinator.admission.drain import RETRY_AFTER
from shoal.coordinator.admission.fair_queue import Waiting
from shoal.coordinator.admission.line import Line
from shoal.coordinator.admission.turn import TimedTurn, Turn, WaitingTurn
from shoal.errors import DeadlineExceeded, Draining, ModelNotFound
from shoal.load_balancer import Room
from shoal.messages import Generate, Infer
from shoal.model_registry import ModelSpec
from shoal.types import ModelId

#: Seconds that those who wait do so when the last worker is lost: as long as a restart takes. Who comes then is told.
PATIENCE: Final = 30.0
LOOK: Final = 1.0  # seconds between two that try meanwhile: only who asks a worker that failed learns that it is back
_KEPT: Final = 1024  # lines, beyond which those without requests go


class Rooms(Protocol):
    """What is to be known of the fleet."""

    def room(self, spec: ModelSpec) -> Room: ...


class Crowd:
    """Those who wait for one model."""

    def __init__(self, line: Line, spec: ModelSpec) -> None:
        self.line = line
        self.spec = spec
        self.turns: dict[Waiting, WaitingTurn] = {}
        self.lost = 0.0  # when the model's last worker was,
        self.look: asyncio.TimerHandle | None = None  # and when to look again; None: there is one


class Turns:
    """``resolve`` finds a model by its name: what the fallbacks of one can take need not wait for it. ``observe`` is
    told how many wait for a model when that changes."""

    def __init__(
        self,
        rooms: Rooms,
        admission: Admission,
        *,
        resolve: Callable[[str], ModelSpec],
        observe: Callable[[str, int], None] = lambda model, waiting: None,
    ) -> None:
        self._rooms = rooms
        self._admission = admission
        self._resolve = resolve
        self._observe = observe
        self._lines: dict[ModelId, Line] = {}
        self._crowds: dict[ModelId, Crowd] = {}  # of the lines in which somebody waits
        self._number = 0
        self._closed = False

    def enter(self, request: Generate | Infer, spec: ModelSpec, deadline: float) -> Turn:
        """A turn, to be left exactly once; where it ``waits`` it is to be awaited first.

        Raises :class:`Overloaded` where the line is full, or too long for the deadline (on the loop's clock).
        """
        model = spec.id
        line = self._lines.get(model) or self._new(spec)
        places = rows_of(request) if spec.batchable and isinstance(request, Infer) else 1
        begins = model not in self._crowds and self._may_begin(line, spec)
        if begins and not line.is_watched:
            line.began(places)
            return Turn(self, line, places)
        at = now()
        line.look(at)
        waiting = self._waiting(request, line, spec, deadline, at)
        if begins:
            line.began(places)
            return TimedTurn(self, line, places, waiting, at)
        return self._queue(waiting, line, spec, places, at)

    def changed(self) -> None:
        """Somebody has left, or a worker has come, gone, or has room."""
        if self._crowds:
            for crowd in list(self._crowds.values()):
                self._go_on(crowd)

    def withdraw(self, waiting: Waiting, crowd: Crowd) -> None:
        """For a turn that is not waited for any more. One that has left the queue changes nothing."""
        if crowd.turns.pop(waiting, None) is not None:
            crowd.line.queue.remove(waiting)
            self._count(crowd)

    def close(self) -> None:
        """The coordinator stops: whoever still waits is told."""
        self._closed = True
        for crowd in list(self._crowds.values()):
            for waiting, turn in list(crowd.turns.items()):
                self.withdraw(waiting, crowd)
                turn.fail(Draining(retry_after=RETRY_AFTER))

    def _new(self, spec: ModelSpec) -> Line:
        if len(self._lines) >= _KEPT:
            self._lines = {model: line for model, line in self._lines.items() if line.requests or len(line.queue)}
        line = self._lines[spec.id] = Line(spec.name, self._admission.weight)
        return line

    def _waiting(self, request: Generate | Infer, line: Line, spec: ModelSpec, deadline: float, at: float) -> Waiting:
        self._number += 1
        wanted = demand(request, batchable=bool(spec.batchable), usual_answer=line.usual_answer.tokens)
        return Waiting(
            request.tenant,
            cost=wanted.cost,
            deadline=deadline,
            arrived=at,
            number=self._number,
            priority=request.priority,
        )

    def _queue(self, waiting: Waiting, line: Line, spec: ModelSpec, places: int, at: float) -> Turn:
        if self._closed:
            raise Draining(retry_after=RETRY_AFTER)
        if (refusal := line.refusal(waiting, self._admission.free, at)) is not None:
            raise self._admission.refused(refusal, waiting.tenant)
        crowd = self._crowds.get(spec.id)
        if crowd is None:
            crowd = self._crowds[spec.id] = Crowd(line, spec)
        line.queue.put(waiting)
        turn = crowd.turns[waiting] = WaitingTurn(self, crowd, places, waiting)
        self._count(crowd)
        return turn

    def _go_on(self, crowd: Crowd) -> None:
        if self._rooms.room(crowd.spec).places:
            if crowd.look is not None:
                crowd.look.cancel()
                crowd.look = None
            self._begin(crowd, len(crowd.turns))
        elif crowd.look is None:
            crowd.lost = now()
            crowd.look = asyncio.get_running_loop().call_later(LOOK, self._look, crowd)

    def _look(self, crowd: Crowd) -> None:
        """No worker has the model now. One request may try; when patience is over all do, and are told."""
        self._begin(crowd, 1 if now() < crowd.lost + PATIENCE else len(crowd.turns))
        if crowd.turns:
            crowd.look = asyncio.get_running_loop().call_later(LOOK, self._look, crowd)

    def _begin(self, crowd: Crowd, most: int) -> None:
        at, line = now(), crowd.line
        for _ in range(most):
            first = line.queue.first()
            if first is None or not self._may_begin(line, crowd.spec):
                break
            turn = crowd.turns.pop(first)
            if line.is_hopeless(first, at):
                line.queue.remove(first)
                turn.fail(DeadlineExceeded("the request waited for a worker until it could not be answered in time"))
            else:
                line.queue.take()
                turn.come(at)
        self._count(crowd)

    def _may_begin(self, line: Line, spec: ModelSpec) -> bool:
        room = self._rooms.room(spec)
        if not room.places:
            return True  # and be told why nobody can run it
        if room.is_free and line.requests < room.requests and line.places < room.places:
            return True
        return any(map(self._may_take, spec.settings.fallback))  # it goes there as long as they can

    def _may_take(self, fallback: str) -> bool:
        try:
            return self._rooms.room(self._resolve(fallback)).is_free
        except ModelNotFound:
            return False

    def _count(self, crowd: Crowd) -> None:
        self._observe(crowd.spec.name, len(crowd.turns))
        if not crowd.turns:
            self._crowds.pop(crowd.spec.id, None)
            if crowd.look is not None:
                crowd.look.cancel()
