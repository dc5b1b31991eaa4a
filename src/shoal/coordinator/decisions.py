"""Where the last requests went, and why: to be asked for afterwards."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from shoal.router import RoutingDecision
from shoal.types import RequestId

KEPT: Final = 1024  # requests
_OF_ONE: Final = 64  # decisions of one request: its parts, retries and fallbacks


class Decisions:
    """The longest ago is forgotten first."""

    def __init__(self) -> None:
        self._of: OrderedDict[RequestId, list[RoutingDecision]] = OrderedDict()

    def note(self, request_id: RequestId, decision: RoutingDecision) -> None:
        made = self._of.setdefault(request_id, [])
        if len(made) < _OF_ONE:
            made.append(decision)
        if len(self._of) > KEPT:
            self._of.popitem(last=False)

    def of(self, request_id: RequestId) -> tuple[RoutingDecision, ...]:
        """In the order in which they were made; empty for a request that is not known, or not any more."""
        return tuple(self._of.get(request_id, ()))
