"""A language model that costs next to nothing and does what it is told: also to fail.

``FAULTS_SWITCHES`` names a folder. A file there, named for the process' id, holds what the engine in it shall do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shoal.engines.base import EngineOptions, Logits, Row
from shoal.engines.toy import VOCAB_SIZE, ToyEngine

SWITCHES = "FAULTS_SWITCHES"
STEP = 0.05  # seconds a step takes at least, so that two cores can carry hundreds of streams
BLOCK = 16  # tokens
MEGABYTE = 2**20


class ObedientEngine(ToyEngine):
    """Its answers depend on all that was computed before, so that a lost or repeated token changes the rest."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(
            block_size=BLOCK,
            num_blocks=options.kv_tokens // BLOCK,
            max_sequences=options.max_sequences,
            max_step_tokens=2048,
        )
        self._switch = Path(os.environ[SWITCHES]) / str(os.getpid())
        self._eaten: list[bytearray] = []

    def step(self, rows: Sequence[Row]) -> Logits:
        began = time.monotonic()
        logits = super().step(rows)
        time.sleep(max(0.0, began + STEP - time.monotonic()))
        return self._spoil(logits) if self._switch.exists() else logits

    def _spoil(self, logits: Logits) -> Logits:
        match self._switch.read_text():
            case "raise":
                raise RuntimeError("told to fail")
            case "raise once":
                self._switch.unlink(missing_ok=True)
                raise RuntimeError("told to fail once")
            case "nan":
                return np.full_like(logits, np.nan)
            case "shape":
                return np.zeros((len(logits), VOCAB_SIZE + 7), np.float32)
            case "hang":
                while True:
                    time.sleep(0.1)
            case "slow":
                time.sleep(1.5)
            case "busy":
                sum(index for index in range(5_000_000))  # some 0.2 s in which no other thread has a turn
            case "eat":
                while True:
                    self._eaten.append(bytearray(os.urandom(MEGABYTE) * 16))
        return logits
