"""The short form of `benchmarks/reliability.py`. How soon a fault is noticed is not asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(__file__).parent.parent.parent / "benchmarks" / "reliability.py"
TIMEOUT = 600.0  # seconds; some 60 on a machine that does nothing else


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By fault."""
    file = tmp_path_factory.mktemp("faults") / "verdicts.json"
    ran = subprocess.run(
        [sys.executable, COMMAND, "--quick", "--json", file], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert file.exists(), ran.stderr
    return {verdict["fault"]: verdict for verdict in json.loads(file.read_text())}


def test_every_request_ends_with_the_answer_it_gets_in_peace(verdicts: dict[str, dict[str, Any]]) -> None:
    assert len(verdicts) == 8
    for verdict in verdicts.values():
        assert verdict["answers"] == {"identical": verdict["sent"]}, verdict


def test_nothing_is_left_behind(verdicts: dict[str, dict[str, Any]]) -> None:
    assert {fault: verdict["left"] for fault, verdict in verdicts.items() if verdict["left"]} == {}


def test_a_fault_strikes_requests_that_run_and_is_noticed(verdicts: dict[str, dict[str, Any]]) -> None:
    killed = verdicts["kill -9 of a worker"]
    assert killed["taken_up"] > 0
    assert killed["noticed"] != [None]
