"""Whether an engine has anything left to say but NaN, by what its latest steps came to.

One prompt may make a model compute numbers from which no token can be chosen, and its client may send it again and
again: the engine is none the worse for it. So a run of spoiled steps counts only when different prompts are in it. They
need not be in one step: whoever gets no token leaves, and an engine that failed everybody is tried with one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.types import TokenId

SPOILED_STEPS = 3  # in a row
PROMPTS = 2  # different ones, in these steps

Prompt = tuple[TokenId, ...]


class Soundness:
    """Any row from which a token could be chosen ends the run; a step of which no token was wanted says nothing."""

    def __init__(self) -> None:
        self._steps = 0  # spoiled, in a row
        self._prompts: set[Prompt] = set()  # that were in them, as many as matter

    def observe(self, spoiled: Iterable[Prompt], *, sound: bool) -> bool:
        """A step spoiled rows of these prompts, and others were ``sound`` or not. Is the engine at its end?"""
        if sound:
            self._steps = 0
            self._prompts.clear()
            return False
        prompts = list(spoiled)
        self._steps += bool(prompts)
        for prompt in prompts:
            if len(self._prompts) < PROMPTS:
                self._prompts.add(prompt)
        return self._steps >= SPOILED_STEPS and len(self._prompts) >= PROMPTS
