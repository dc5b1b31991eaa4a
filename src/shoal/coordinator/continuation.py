"""What of an answer has gone out, and how to ask another worker for the rest of it.

A generated answer can be taken up anywhere: a draw depends on the seed and the position alone, and whatever else a
worker knows of an answer (its text so far, a grammar's state, penalties) follows from its tokens.
"""

from __future__ import annotations

import msgspec

from shoal.errors import EngineFailed, ShoalError
from shoal.messages import Answer, Chunk, Generate, Infer
from shoal.types import TokenId

MAX_FAILURES = 3  # of engines in a row that add nothing: it may be the request that they fail at
MAX_WORKERS = 16  # in all: a request that ends every engine it meets is not carried through the whole fleet


class Continuation:
    """One request's answer, over all the workers that have a part in it."""

    __slots__ = ("_failures", "_request", "_tokens", "_workers", "begun")

    def __init__(self, request: Generate | Infer) -> None:
        self._request = request
        self._tokens: list[TokenId] = list(request.output) if isinstance(request, Generate) else []
        self._workers = 0
        self._failures = 0
        self.begun = False  # something has gone out

    @property
    def can_go_on(self) -> bool:
        """May another worker be asked? An answer that has begun only if its rest can be asked for."""
        if self.begun and not isinstance(self._request, Generate):
            return False
        return self._failures < MAX_FAILURES and self._workers < MAX_WORKERS

    def asking(self) -> Generate | Infer:
        """The request for the next worker: for all that has not gone out."""
        self._workers += 1
        if isinstance(self._request, Generate) and self.begun:
            return msgspec.structs.replace(self._request, output=tuple(self._tokens))
        return self._request

    def failed(self, error: ShoalError) -> None:
        """The last worker did not finish it. That a worker went away is no fault of the request's; what its engine
        failed at may be."""
        if isinstance(error, EngineFailed):
            self._failures += 1

    def passed_on(self, answer: Answer) -> None:
        """This part goes out."""
        self.begun = True
        self._failures = 0
        if isinstance(answer, Chunk):
            self._tokens += answer.tokens
