"""A process of its own that compiles what is on its standard input, and dies where that costs too much.

A compilation cannot be cancelled, and some grammars of a few bytes take minutes and gigabytes: integers that are
multiples of a large prime, repetitions of repetitions. Here the operating system ends them, and the server never
begins. Whether the grammar is correct is not asked. Run as a file, so that little needs to be imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys

import llguidance

SECONDS = 0.5  # of computing; schemas of hundreds of fields take a tenth of it
ADDRESS_SPACE = 256 * 2**20  # bytes, of which the interpreter takes 50 MB
NICENESS = 5  # requests that run already go first
EOS = 256


class _Bytes:
    """The attributes that llguidance asks a tokenizer for: a token for each byte."""

    def __init__(self) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b""]
        self.special_token_ids = [EOS]
        self.eos_token_id = EOS
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def main() -> None:
    """Reads an object in JSON: ``source``, and the ``limits`` that llguidance has by itself. Writes the kilobytes that
    the compiled grammar takes."""
    given = json.load(sys.stdin)
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), eos_token=[EOS])
    limits = llguidance.LLParserLimits(**given["limits"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _restrict()
    llguidance.LLMatcher(tokenizer, given["source"], log_level=0, limits=limits).compute_bitmask()
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def _restrict() -> None:
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)


if __name__ == "__main__":
    main()
