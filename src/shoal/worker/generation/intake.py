"""The way in: requests whose prompts and grammars are being prepared, in threads that nobody else waits for."""

from __future__ import annotations

import asyncio
from functools import partial

from shoal.messages import Generate
from shoal.types import Grammar
from shoal.worker.generation.answer import Answer
from shoal.worker.generation.constraint import Constraint
from shoal.worker.generation.offload import Offload
from shoal.worker.generation.prepare import Preparer, is_long

MAX_COMPILING = 16  # grammars, those that wait for a thread with them
MAX_LONG = 8  # prompts, those that wait for the thread with them


class Intake:
    """Makes answers of requests. ``count``: those that it has now."""

    def __init__(self, preparer: Preparer) -> None:
        self.count = 0
        self._preparer = preparer
        self._compiling: dict[Grammar, asyncio.Task[Constraint]] = {}
        self._prompts = Offload(2, "prepare")
        # Of their own: nobody waits for the grammars and the long prompts of others.
        self._grammars = Offload(2, "grammar", most=MAX_COMPILING)
        self._long_prompts = Offload(1, "long prompt", most=MAX_LONG)

    async def prepare(self, request: Generate) -> Answer:
        """Raises as :class:`Preparer` and :class:`Offload` do."""
        self._preparer.check(request)
        self.count += 1
        try:
            constraint = None if request.grammar is None else await self._compile(request.grammar)
            threads = self._long_prompts if is_long(request.prompt) else self._prompts
            return await threads.run(partial(self._preparer.prepare, request, constraint))
        finally:
            self.count -= 1

    async def _compile(self, grammar: Grammar) -> Constraint:
        known = self._preparer.known(grammar)
        if known is not None:
            return known
        task = self._compiling.get(grammar)
        if task is None:
            work = self._grammars.run(partial(self._preparer.compile, grammar))
            task = self._compiling[grammar] = asyncio.create_task(work)
            task.add_done_callback(partial(self._compiled, grammar))
        # The generations of one request have the same grammar: it is compiled once, whoever of them leaves.
        return (await asyncio.shield(task)).fork()

    def _compiled(self, grammar: Grammar, task: asyncio.Task[Constraint]) -> None:
        del self._compiling[grammar]
        if not task.cancelled():
            task.exception()  # whoever would have taken it may have left

    def close(self) -> None:
        """Begin nothing more."""
        for threads in (self._prompts, self._grammars, self._long_prompts):
            threads.close()
