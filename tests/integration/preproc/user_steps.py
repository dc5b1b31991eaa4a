"""Steps of a user's, each bad in its own way. Imported by step processes, so they know nothing of the tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from shoal.types import TensorSpec

Tensors = dict[str, np.ndarray]


def behave(tensors: Tensors) -> Tensors:
    """Does what ``act`` says, and otherwise doubles ``x`` and tells its process."""
    match bytes(tensors["act"].item()).decode():
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "raise":
            raise ValueError("no fish today")
        case "hang":
            while True:
                time.sleep(1)
        case mark if mark.startswith("once "):
            path = Path(mark.removeprefix("once "))
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)
    return {
        "x": tensors["x"] * 2,
        "pid": np.array(os.getpid()),
        "threads": np.array(int(os.environ["OMP_NUM_THREADS"])),
    }


def hold_the_lock(tensors: Tensors) -> Tensors:
    """Stuck in foreign code that never lets another thread of the interpreter run."""
    import ctypes

    ctypes.PyDLL(None).sleep(600)
    return tensors


def broken(tensors: Tensors, *, depth: int) -> Tensors:
    return tensors


def writes_text(tensors: Tensors) -> Tensors:
    return {"text": np.array(["no bytes"])}


class DiesWhenMade:
    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Model:
    inputs = (TensorSpec("x", "FP32", (-1, 1)),)

    def run(self, inputs: Tensors) -> Tensors:
        return inputs
