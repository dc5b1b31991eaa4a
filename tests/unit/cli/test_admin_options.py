from __future__ import annotations

import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner

from shoal.cli.models import models
from shoal.cli.workers import workers

CALLS: list[tuple[click.Group, list[str]]] = [
    (models, ["load", "m", "echo:"]),
    (models, ["unload", "m"]),
    (models, ["promote", "m@1"]),
    (models, ["alias", "a", "--delete"]),
    (workers, ["drain", "w"]),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    addresses: list[str] = []

    def ask(address: str, method: str, path: str, body: Any = None) -> Any:
        addresses.append(address)
        return {"name": "m", "version": "1", "replicas": [], "unloaded": ["m@1"], "worker": "w"}

    for module in ("shoal.cli.models", "shoal.cli.workers"):  # the package has the commands under these names
        monkeypatch.setattr(sys.modules[module], "ask", ask)
    return addresses


@pytest.mark.parametrize(("group", "call"), CALLS, ids=lambda given: given[0] if isinstance(given, list) else "")
def test_where_to_ask_may_stand_before_and_behind_the_subcommand(
    group: click.Group, call: list[str], asked: list[str]
) -> None:
    for arguments in (
        ["--address", "here:1", "--json", *call],
        [*call, "--address", "here:1", "--json"],
        ["--address", "there:2", *call, "--address", "here:1", "--json"],
    ):
        answer = CliRunner().invoke(group, arguments, env={"SHOAL_ADDRESS": "elsewhere:3"})
        assert answer.exit_code == 0, answer.output
        assert answer.output.startswith("{")
    assert asked == ["here:1"] * 3
