from __future__ import annotations

import importlib
from typing import Any

import pytest
from click.testing import CliRunner

from shoal.bench import Record, Run

COMMAND = importlib.import_module("shoal.cli.bench")  # the package has the command itself under this name


@pytest.mark.parametrize(("busy", "told"), [(0.97, True), (0.3, False)])
def test_a_load_generator_that_is_the_limit_says_so(monkeypatch: pytest.MonkeyPatch, busy: float, told: bool) -> None:
    async def measured(*_: Any) -> Run:
        records = (Record(0.0, 0.0, 0.5, "ok"),)
        return Run(
            scenario="chat",
            load="1 clients",
            url="http://x",
            started="now",
            duration=1.0,
            machine={},
            records=records,
            generator_busy=busy,
        )

    monkeypatch.setattr(COMMAND, "run", measured)
    result = CliRunner().invoke(COMMAND.bench, [])
    assert result.exit_code == 0, result.output
    assert ("97%" in result.output) is told
