"""Which models and shards a worker loads, from its configuration."""

from __future__ import annotations

import pytest

from shoal.config import Config, ModelConfig, ServeConfig, ShardConfig, WorkerConfig
from shoal.errors import ConfigError
from shoal.node.models import dealt_replicas, own_parts

MODELS = {
    "table": ModelConfig(uri="tables:Table", shards=ShardConfig(count=2)),
    "fish@1": ModelConfig(uri="echo"),
    "fish@2": ModelConfig(uri="echo"),
}


def loads(*replicas: str, models: tuple[str, ...] = ()) -> list[str]:
    config = Config(worker=WorkerConfig(replicas=replicas, models=models), models=MODELS)
    return [str(part) for _, part in own_parts(config)]


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        pytest.param((), ["table@1#0", "table@1#1", "fish@1", "fish@2"], id="everything"),
        pytest.param(("table#1",), ["table@1#1"], id="one shard"),
        pytest.param(("table",), ["table@1#0", "table@1#1"], id="all shards"),
        pytest.param(("fish",), ["fish@1", "fish@2"], id="all versions"),
        pytest.param(("fish@2", "table@1#0"), ["fish@2", "table@1#0"], id="one version and a shard of another"),
        pytest.param(("table", "table#1"), ["table@1#0", "table@1#1"], id="twice named is once loaded"),
    ],
)
def test_replicas_choose_among_the_models_of_the_file(replicas: tuple[str, ...], expected: list[str]) -> None:
    assert loads(*replicas) == expected


def test_models_of_the_command_line_are_loaded_in_any_case() -> None:
    assert loads("table#0", models=("echo",)) == ["echo@1", "table@1#0"]


@pytest.mark.parametrize("wrong", ["whale", "fish@3", "table#2", "fish#0", "table#", "#1", ""])
def test_a_replica_that_means_nothing_is_named_with_what_there_is(wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"no model '{wrong}' in the file; there are table@1#0, table@1#1, fish@1"):
        loads(wrong)


def test_serve_deals_shards_and_leaves_everything_everywhere_where_there_are_none() -> None:
    config = Config(serve=ServeConfig(workers=2), models=MODELS)
    assert dealt_replicas(config) == [("table@1#0", "fish@1", "fish@2"), ("table@1#1", "fish@1", "fish@2")]
    whole = Config(serve=ServeConfig(workers=2), models={"fish": ModelConfig(uri="echo")})
    assert dealt_replicas(whole) == [(), ()]
