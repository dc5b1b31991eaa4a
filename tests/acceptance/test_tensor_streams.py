"""A user's Python class that answers in parts, through real processes: native client, coordinator, worker, engine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import shoal as run_shoal
from processes import until_ready

import shoal

SOURCE = """
import time
import numpy as np
from shoal.types import TensorSpec

class Countdown:
    inputs = (TensorSpec("start", "INT64", (-1,)),)
    outputs = (TensorSpec("left", "INT64", (-1,)),)

    def stream(self, inputs):
        for step in range(int(inputs["start"].max()) + 1):
            time.sleep(0.01)
            yield {"left": np.maximum(inputs["start"] - step, 0)}
            if step == 13:
                raise ValueError("thirteen")
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("models")
    (folder / "countdown.py").write_text(SOURCE)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    arguments = ("serve", "countdown=countdown:Countdown", "--workers", "1", "--listen-port", "0")
    with run_shoal(*arguments, environment={"PYTHONPATH": path}) as command:
        served = command.wait_for(r"coordinator serves on http://(\S+)")[1]
        until_ready(f"http://{served}", command)
        yield served


def start(*values: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    return {"start": np.array(values)}


def test_the_parts_come_one_by_one(address: str) -> None:
    with shoal.Client(address) as client:
        times, parts = [], []
        for part in client.infer_stream("countdown", start(3, 1)):
            times.append(time.monotonic())
            parts.append(part["left"].tolist())
    assert parts == [[3, 1], [2, 0], [1, 0], [0, 0]]
    assert times[-1] - times[0] > 0.02


def test_streams_that_run_together_stay_apart(address: str) -> None:
    def ask(value: int) -> list[int]:
        with shoal.Client(address) as client:
            return [part["left"].item() for part in client.infer_stream("countdown", start(value))]

    with ThreadPoolExecutor(8) as pool:
        for value, answer in enumerate(pool.map(ask, range(8))):
            # A batch goes on until its longest has ended; who was ready before goes on at zero.
            assert answer[: value + 1] == list(range(value, -1, -1))
            assert set(answer[value + 1 :]) <= {0}


def test_who_asks_for_a_whole_is_told_to_ask_for_a_stream(address: str) -> None:
    with shoal.Client(address) as client, pytest.raises(shoal.ShoalError, match="infer_stream"):
        client.infer("countdown", start(3))


def test_a_stream_that_breaks_ends_with_its_error(address: str) -> None:
    with shoal.Client(address) as client:
        parts = client.infer_stream("countdown", start(20))
        received = [next(parts)["left"].item() for _ in range(14)]
        assert received == list(range(20, 6, -1))
        with pytest.raises(shoal.ShoalError, match="ValueError: thirteen"):
            next(parts)
        assert len(list(client.infer_stream("countdown", start(2)))) == 3


def test_a_stream_that_is_left_makes_room_at_once(address: str) -> None:
    with shoal.Client(address) as client:
        parts = client.infer_stream("countdown", start(10))
        next(parts)
        parts.close()
        began = time.monotonic()
        assert len(list(client.infer_stream("countdown", start(1)))) == 2
        assert time.monotonic() - began < 5
