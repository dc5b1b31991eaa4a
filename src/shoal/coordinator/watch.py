"""Acts on what a vigil says of the workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from shoal.aio import Tasks
from shoal.clock import now
from shoal.cluster import Member, Membership, Verdict, Vigil
from shoal.rpc import Connection

logger = logging.getLogger(__name__)


class Watch:
    """Looks for silence: a suspect gets no requests; one that stays silent loses its connection, and with it all.

    ``links``: whoever is to be watched, kept up to date by its owner, as ``tasks`` are ended by theirs.
    """

    def __init__(self, membership: Membership, links: Mapping[Connection, Member], tasks: Tasks) -> None:
        self._membership = membership
        self._links = links
        self._tasks = tasks
        self._vigil = Vigil()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._vigil.patience.look)
            at = now()
            self._vigil.begin(at)
            for connection, member in self._links.items():
                verdict = self._vigil.judge(member, connection.heard, at)
                if verdict is not Verdict.FINE or member.suspect:
                    self._act(verdict, member, connection)

    def is_silent(self, member: Member, connection: Connection) -> bool:
        return self._vigil.is_silent(member, connection.heard, now())

    def suspect(self, member: Member, suspect: bool) -> None:
        """Take it out of rotation, or back."""
        if suspect is member.suspect:
            return
        self._membership.suspected(member, suspect)
        logger.warning(
            "%s %s",
            member.worker_id,
            "is silent and gets no requests" if suspect else "speaks again",
            extra={"action": "worker_suspected" if suspect else "worker_healed", "worker": member.worker_id},
        )

    def _act(self, verdict: Verdict, member: Member, connection: Connection) -> None:
        if verdict is Verdict.PROBE:
            connection.ping()
        elif verdict is Verdict.LOST and not connection.is_closed:
            self._tasks.start(connection.close("it was silent for too long"), name="close suspect")
        suspect = {Verdict.FINE: False, Verdict.SUSPECT: True}.get(verdict, member.suspect)
        if suspect and not member.suspect:
            self._membership.fell(member, now())
            connection.give_up_calls("it is silent")  # whoever waits for it goes on elsewhere
        self.suspect(member, suspect)
