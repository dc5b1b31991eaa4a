"""What ``shoal pull`` and ``shoal config`` print."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from shoal.cli import shoal


def test_echo_needs_no_files() -> None:
    done = CliRunner().invoke(shoal, ["pull", "echo"])
    assert (done.exit_code, done.output) == (0, "echo: answers with what it is asked, and needs no files\n")


def test_config_shows_what_each_setting_is_and_where_models_really_are(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path), "SHOAL_COORDINATER_PORT": "1"}
    done = CliRunner().invoke(shoal, ["config", "--json"], env=environment)
    found = json.loads(done.stdout)
    assert found["cache_dir"]["value"] == str(tmp_path / "shoal")
    assert found["worker.zone"]["description"]
    assert "SHOAL_COORDINATER_PORT is no setting; did you mean SHOAL_COORDINATOR_PORT?" in done.stderr


def test_square_brackets_of_a_description_are_shown() -> None:
    assert "NAME[@VERSION][#SHARD]" in CliRunner().invoke(shoal, ["config"]).stdout
