"""One value, four sources, one precedence."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config import Config, cache_folder, leaves, load, value_at, variable
from shoal.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shoal.yaml"
    path.write_text("coordinator:\n  port: 7000\nmodels:\n  fish:\n    uri: fish.gguf\n    aliases: [default]\n")
    return path


def test_every_setting_has_a_default() -> None:
    settings = load(environment={})
    assert settings.config == Config()
    assert set(settings.origins.values()) == {"default"}


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(file: Path) -> None:
    variables = {"SHOAL_COORDINATOR_PORT": "8000"}
    flag = load(flags={"coordinator.port": 9999}, environment=variables, file=file)
    environment = load(environment=variables, file=file)
    from_file = load(environment={}, file=file)
    default = load(environment={})
    found = [
        (s.config.coordinator.port, s.origins["coordinator.port"]) for s in (flag, environment, from_file, default)
    ]
    assert found == [(9999, "flag"), (8000, "SHOAL_COORDINATOR_PORT"), (7000, "file"), (9000, "default")]


def test_a_flag_that_was_not_given_does_not_count() -> None:
    assert load(flags={"coordinator.port": None}, environment={}).origins["coordinator.port"] == "default"


def test_lists_in_the_environment_are_comma_separated() -> None:
    settings = load(environment={"SHOAL_WORKER_COORDINATORS": "a:1, b:2", "SHOAL_WORKER_CPUS": "0,3"})
    assert settings.config.worker.coordinators == ("a:1", "b:2")
    assert settings.config.worker.cpus == (0, 3)


def test_models_come_from_the_file(file: Path) -> None:
    models = load(environment={}, file=file).config.models
    assert models["fish"].uri == "fish.gguf"
    assert models["fish"].aliases == ("default",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("coordinator: {port: 70000}", r"<= 65535.*coordinator\.port"),
        ("coordinator: {prot: 1}", "unknown field `prot`"),
        ("coordinater: {}", "unknown field `coordinater`"),
        ("worker: {role: chef}", r"Invalid enum value 'chef'.*worker\.role"),
        ("[1, 2]", "expected sections"),
        ("a: b: c", "shoal.yaml"),
    ],
)
def test_a_wrong_file_is_refused_and_the_place_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "shoal.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load(environment={}, file=path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load(environment={}, file=tmp_path / "nowhere.yaml")


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="SHOAL_COORDINATOR_PORT: Expected `int`"):
        load(environment={"SHOAL_COORDINATOR_PORT": "many"})


def test_no_two_settings_share_a_variable() -> None:
    names = [variable(path) for path, _ in leaves()]
    assert len(names) == len(set(names))
    assert all(value_at(Config(), path) is not None for path, _ in leaves())


def test_models_are_kept_where_the_user_keeps_caches(tmp_path: Path) -> None:
    assert cache_folder(Config(), {"XDG_CACHE_HOME": "/x"}) == Path("/x/shoal")
    assert cache_folder(Config(), {}) == Path.home() / ".cache" / "shoal"
    assert cache_folder(Config(cache_dir="/models"), {"XDG_CACHE_HOME": "/x"}) == Path("/models")
