"""The short form of `benchmarks/beside_rivals.py overhead`: does the harness work, and is nothing slower by far?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
from rivals.results import Results

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "beside_rivals.py"
#: Of the rate of a bare echo. No figure, as the machine may be busy: a tenth of a second lost in each request fails.
LEAST_RATIO = 0.01


def test_shoal_answers_right_and_not_far_slower_than_a_bare_echo(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "overhead", "--only", "shoal", "--rounds", "1", "--seconds", "1"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("overhead-*.json")
    results = msgspec.json.decode(file.read_bytes(), type=Results)
    assert not results.left_out, done.stdout
    assert results.machine["cores"] > 0
    for name in ("Shoal", "Shoal, defaults"):
        (ratio,) = results.ratios(name, "bare ASGI echo")
        assert ratio > LEAST_RATIO, done.stdout
