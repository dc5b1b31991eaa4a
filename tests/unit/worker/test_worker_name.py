from __future__ import annotations

import socket

import pytest

from shoal.config import WorkerConfig
from shoal.worker.worker import _name


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_worker_on_every_address_is_called_after_its_machine(host: str) -> None:
    assert _name(WorkerConfig(host=host, port=9001), "abcdef012345") == f"{socket.gethostname()}:9001"


def test_a_worker_is_called_after_its_address_and_without_a_port_after_its_process() -> None:
    assert _name(WorkerConfig(host="10.0.0.1", port=9001), "abcdef012345") == "10.0.0.1:9001"
    assert _name(WorkerConfig(port=0), "abcdef012345") == "abcdef01"
