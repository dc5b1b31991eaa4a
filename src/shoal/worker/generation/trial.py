"""Try a grammar out in a process that may die of it, before it is compiled where it cannot be stopped."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from shoal.errors import InvalidRequest, Overloaded
from shoal.types import Grammar

logger = logging.getLogger(__name__)

PROBE = Path(__file__).with_name("grammar_probe.py")
TIMEOUT = 10.0  # seconds by the clock: a machine that is so busy should not compile as well


def try_out(grammar: Grammar, source: str, limits: Mapping[str, int]) -> int:
    """Bytes that the grammar takes once it is compiled. ``source`` and ``limits``: as llguidance takes them.

    Raises :class:`~shoal.errors.InvalidRequest` for one that takes too much time or memory,
    :class:`~shoal.errors.Overloaded` when the machine is too busy to tell.
    """
    data = json.dumps({"source": source, "limits": limits}).encode()
    try:
        ended = subprocess.run(
            [sys.executable, "-P", str(PROBE)], input=data, capture_output=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        message = f"this machine is too busy to compile the {grammar.kind}"
        raise Overloaded(message, retry_after=TIMEOUT) from None
    if ended.returncode != 0:
        logger.info("a grammar costs too much", extra={"action": "grammar_refused", "status": ended.returncode})
        message = (
            f"the {grammar.kind} takes more than half a second or 200 MB to compile, "
            "as large numbers in `multipleOf` and repetitions within repetitions do"
        )
        raise InvalidRequest(message, param=grammar.param)
    return int(ended.stdout) * 1024
