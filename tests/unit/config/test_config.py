"""One value, four sources, one precedence."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config import Config, cache_folder, description, leaves, load, unknown_variables, value_at, variable
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
        ("coordinator: {port: 70000}", r"shoal\.yaml: coordinator\.port: .*<= 65535"),
        ("coordinator: {prot: 1}", r"shoal\.yaml: coordinator: .*unknown field `prot`; did you mean `port`\?"),
        ("coordinater: {}", r"shoal\.yaml: .*unknown field `coordinater`; did you mean `coordinator`\?"),
        (
            "models: {fish: {balancing: roundrobin}}",
            r"models\.fish\.balancing: Invalid enum value .*; it may be round_robin, least_connections, random",
        ),
        ("log: {level: loud}", r"log\.level: .*; it may be debug, info, warning, error"),
        ("models: {fish: {urri: x}}", r"unknown field `urri`; did you mean `uri`\?"),
        (
            "models: {crab: {uri: x}, fish: {batching: {max_wait: .inf}}, eel: {}}",
            r"models\.fish\.batching\.max_wait: ",
        ),
        ("models: {crab: {uri: x}, fish: 7}", r"models\.fish: Expected `object`"),
        ("models: {fish: {batching: {max_row: 1}}}", r"unknown field `max_row`; did you mean `max_rows`\?"),
        ("coordinator: {xyzzy: 1}", "unknown field `xyzzy`$"),
        ("worker: {role: chef}", r"worker\.role: Invalid enum value 'chef'"),
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


def test_a_wrong_flag_is_told_as_one(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"configuration flag: coordinator\.port: "):
        load(flags={"coordinator.port": 70000}, environment={}, file=file)


def test_a_variable_that_is_no_setting_is_told_with_the_nearest_one() -> None:
    given = {"SHOAL_COORDINATER_PORT": "1", "SHOAL_XYZZY": "1", "SHOAL_LOG_LEVEL": "info", "SHOAL_ADDRESS": "a:1"}
    assert dict(unknown_variables(given)) == {"SHOAL_COORDINATER_PORT": "SHOAL_COORDINATOR_PORT", "SHOAL_XYZZY": ""}


def test_every_setting_says_what_it_is() -> None:
    assert not [path for path, field in leaves() if not description(field)]


def test_no_two_settings_share_a_variable() -> None:
    names = [variable(path) for path, _ in leaves()]
    assert len(names) == len(set(names))
    assert all(value_at(Config(), path) is not None for path, _ in leaves())


def test_models_are_kept_where_the_user_keeps_caches(tmp_path: Path) -> None:
    assert cache_folder(Config(), {"XDG_CACHE_HOME": "/x"}) == Path("/x/shoal")
    assert cache_folder(Config(), {}) == Path.home() / ".cache" / "shoal"
    assert cache_folder(Config(cache_dir="/models"), {"XDG_CACHE_HOME": "/x"}) == Path("/models")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coordinator: {trusted_proxies: [here]}", "coordinator: trusted_proxies: 'here' does not appear to be"),
        ("coordinator: {trusted_proxies: [10.0.0.1/8]}", "10.0.0.1/8 has host bits set"),
        ("tenants: {gold: {wieght: 3}}", "unknown field `wieght`; did you mean `weight`"),
        ("tenants: {gold: {requests: 0}}", r"tenants\[...\].requests: Expected `int` >= 1"),
        ("models: {fish: {uri: echo, limits: {tokens_per_second: -1}}}", "Expected `float` > 0"),
    ],
)
def test_limits_that_make_no_sense_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "shoal.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(environment={}, file=tmp_path / "shoal.yaml")
