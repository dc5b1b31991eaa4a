"""What of an answer has gone out, and how to ask another worker for the rest of it.

A generated answer can be taken up anywhere: a draw depends on the seed and the position alone, and whatever else a
worker knows of an answer (its text so far, a grammar's state, penalties) follows from its tokens. A tensor answer in
parts is computed anew, and goes on behind the parts that have gone out.
"""

from __future__ import annotations

import msgspec

from shoal.coordinator.parts_again import PartsAgain
from shoal.errors import EngineFailed, Overloaded, ShoalError
from shoal.messages import Answer, Chunk, Generate, Infer, Inferred
from shoal.types import TokenId

MAX_FAILURES = 3  # of engines in a row that add nothing: it may be the request that they fail at
MAX_WORKERS = 16  # in all: a request that ends every engine it meets is not carried through the whole fleet


class Continuation:
    """One request's answer, over all the workers that have a part in it."""

    __slots__ = ("_failures", "_parts", "_request", "_tokens", "_workers", "begun")

    def __init__(self, request: Generate | Infer) -> None:
        self._request = request
        self._tokens: list[TokenId] = list(request.output) if isinstance(request, Generate) else []
        self._workers = 0
        self._failures = 0
        self._parts: PartsAgain | None = None  # of a tensor answer that has begun
        self.begun = False  # something has gone out

    @property
    def can_go_on(self) -> bool:
        """May another worker be asked?"""
        if self._parts is not None and self._parts.differs:
            return False
        return self._failures < MAX_FAILURES and self._workers < MAX_WORKERS

    @property
    def begins_anew(self) -> bool:
        """Does the next worker compute what has gone out once more?"""
        return self._parts is not None

    def asking(self) -> Generate | Infer:
        """The request for the next worker: for all that has not gone out, where that can be asked for."""
        self._workers += 1
        if self._parts is not None:
            self._parts.begin()
        if isinstance(self._request, Generate) and self.begun:
            return msgspec.structs.replace(self._request, output=tuple(self._tokens))
        return self._request

    def is_known(self, answer: Answer) -> bool:
        """Has this part gone out before? For an answer that begins anew. Raises :class:`~shoal.errors.WorkerLost` for
        one that is another now."""
        return self._parts is not None and isinstance(answer, Inferred) and self._parts.is_known(answer)

    def failed(self, error: ShoalError) -> None:
        """The last worker did not finish it. That a worker went away is no fault of the request's; what its engine
        failed at may be."""
        if isinstance(error, EngineFailed):
            self._failures += 1
        elif isinstance(error, Overloaded):
            self._workers -= 1  # this one has not even begun

    def passed_on(self, answer: Answer) -> None:
        """This part goes out."""
        self.begun = True
        self._failures = 0
        if isinstance(answer, Chunk):
            self._tokens += answer.tokens
        elif isinstance(answer, Inferred) and not answer.last:
            self._parts = self._parts or PartsAgain()
            self._parts.add(answer)
