"""With real processes: a model in shards from a file, and a worker that is frozen and thawed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from processes import Command
from processes import shoal as run_shoal

import shoal

MODEL = """
import numpy as np

class Table:
    def __init__(self, shard):
        self.shard = shard

    def run(self, inputs):
        told = [f"{row} from {self.shard}".encode() for row in inputs["id"]]
        return {"row": inputs["id"], "told": np.array(told, dtype=object)}
"""
CONFIG = """
coordinator: {port: 0}
serve: {workers: 3}
models:
  table:
    uri: users_table:Table
    shards: {count: 2, by: range, key: id, bounds: ["100"]}
  echo: {uri: echo}
  away: {uri: "nowhere/x.onnx", fallback: [echo]}
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[shoal.Client, Command]]:
    (tmp_path / "users_table.py").write_text(MODEL)
    (tmp_path / "shoal.yaml").write_text(CONFIG)
    file = str(tmp_path / "shoal.yaml")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with run_shoal("serve", "--config", file, environment={"PYTHONPATH": path}) as command:
        address = command.wait_for(r"coordinator serves on http://(\S+)")[1]
        command.wait_for(r"away failed", times=3)
        command.wait_for(r"table#1 ready")
        command.wait_for(r"table#0 ready", times=2)
        with shoal.Client(address) as client:
            yield client, command


def workers(command: Command) -> list[psutil.Process]:
    return [child for child in command.descendants() if "shoal worker" in " ".join(child.cmdline())]


def test_rows_come_back_in_order_from_the_shards_that_the_workers_were_dealt(
    served: tuple[shoal.Client, Command],
) -> None:
    client, command = served
    answer = client.infer("table", {"id": np.array([5, 500, 7, 100, 99])})
    assert answer["told"].tolist() == [b"5 from 0", b"500 from 1", b"7 from 0", b"100 from 1", b"99 from 0"]
    assert answer["row"].tolist() == [5, 500, 7, 100, 99]
    assert sorted(process.cmdline()[process.cmdline().index("--replica") + 1] for process in workers(command)) == [
        "table@1#0",
        "table@1#0",
        "table@1#1",
    ]
    assert client.infer("away", {"input": np.ones(2)})["output"].tolist() == [1, 1]


def test_a_frozen_worker_costs_no_request_and_is_back_when_it_thaws(served: tuple[shoal.Client, Command]) -> None:
    client, command = served
    frozen = workers(command)[0]
    frozen.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        command.wait_for("is silent and gets no requests")
        assert time.monotonic() - began < 3  # a second on a machine that is not busy
        for number in range(50):
            assert client.infer("echo", {"input": np.array([number])})["output"].tolist() == [number]
    finally:
        frozen.send_signal(signal.SIGCONT)
    command.wait_for("speaks again")
