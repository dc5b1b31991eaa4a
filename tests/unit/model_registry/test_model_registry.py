from __future__ import annotations

import pytest

from shoal.config import ModelConfig, ShardConfig
from shoal.errors import ConfigError, ModelNotFound
from shoal.messages import ModelInfo
from shoal.model_registry import MAX_MODELS, ModelSpec, Registry
from shoal.types import ModelId, ModelKind, ModelName, ModelState, Version


def model(name: str, *aliases: str, kind: ModelKind = ModelKind.GENERATE) -> ModelSpec:
    return ModelSpec(name=ModelName(name), kind=kind, settings=ModelConfig(aliases=aliases))


TENSOR = model("minilm", "embed", kind=ModelKind.TENSOR)
CHAT = model("smollm2", "small", "tiny")


@pytest.mark.parametrize(
    ("models", "asked", "found"),
    [
        ([TENSOR, CHAT], "smollm2", CHAT),
        ([TENSOR, CHAT], "tiny", CHAT),
        ([TENSOR, CHAT], "embed", TENSOR),
        ([TENSOR, CHAT], "default", CHAT),
        ([CHAT, other := model("other", "default")], "default", other),
        ([CHAT, named := model("default", kind=ModelKind.TENSOR)], "default", named),
    ],
)
def test_names_and_aliases_lead_to_their_model(models: list[ModelSpec], asked: str, found: ModelSpec) -> None:
    assert Registry(models).resolve(asked) is found


@pytest.mark.parametrize(
    ("models", "asked", "says"),
    [
        ([], "x", "there is no model 'x'; there are no models yet"),
        ([TENSOR, CHAT], "x", "there is no model 'x'; there are 'minilm', 'smollm2', 'embed', 'small', 'tiny'"),
        ([TENSOR], "default", "there is no model 'default'; there are 'minilm', 'embed'"),
        ([model(f"m{i}") for i in range(100)], "x", "'m19' and 80 more"),
        ([], "x" * 10_000, "there are no models yet"),
    ],
)
def test_an_unknown_name_gets_a_bounded_list_of_what_there_is(models: list[ModelSpec], asked: str, says: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        Registry(models).resolve(asked)
    assert caught.value.message.endswith(says)


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([CHAT, CHAT], "there are two models called 'smollm2'"),
        ([CHAT, model("tiny")], "'tiny' is already an alias of 'smollm2'"),
        ([CHAT, model("x", "smollm2")], "there are two models called 'smollm2'"),
        ([CHAT, model("x", "tiny")], "'tiny' is already an alias of 'smollm2'"),
        ([model("x", "y"), model("y", "x")], "'y' is already an alias of 'x'"),
        ([model("x", "x")], "model 'x' has the alias 'x' twice"),
        ([model("x", "y", "y")], "model 'x' has the alias 'y' twice"),
    ],
)
def test_clashes_and_loops_are_refused(models: list[ModelSpec], says: str) -> None:
    registry = Registry(models[:-1])
    before = registry.list()
    with pytest.raises(ConfigError) as caught:
        registry.add(models[-1])
    assert caught.value.message == says
    assert registry.list() == before


def test_a_model_that_only_a_worker_knows_is_learned_once() -> None:
    registry = Registry([CHAT])
    registry.learn(ModelInfo(ModelName("new"), ModelKind.TENSOR, ModelState.LOADING, version=Version("7")))
    registry.learn(ModelInfo(ModelName("new"), ModelKind.GENERATE, ModelState.READY, version=Version("7")))
    registry.learn(ModelInfo(ModelName("smollm2"), ModelKind.TENSOR, ModelState.READY))
    assert [spec.name for spec in registry.list()] == ["smollm2", "new"]
    assert registry.resolve("smollm2") is CHAT
    assert registry.resolve("new").kind is ModelKind.TENSOR
    assert registry.resolve("new").version == "7"


def test_the_number_of_models_is_bounded() -> None:
    registry = Registry(model(f"m{i}") for i in range(MAX_MODELS))
    with pytest.raises(ConfigError, match="limit"):
        registry.learn(ModelInfo(ModelName("one more"), ModelKind.TENSOR, ModelState.READY))
    assert len(registry) == MAX_MODELS


def test_the_default_is_told_among_a_models_aliases() -> None:
    registry = Registry([TENSOR, CHAT])
    assert registry.aliases(CHAT) == ("small", "tiny", "default")
    assert registry.aliases(TENSOR) == ("embed",)
    registry.add(model("other", "default"))
    assert registry.aliases(CHAT) == ("small", "tiny")


def test_replicas_are_copies_of_all_of_a_model_or_of_each_of_its_shards() -> None:
    settings = ModelConfig(shards=ShardConfig(count=2))
    table = ModelSpec(name=ModelName("table"), kind=ModelKind.TENSOR, settings=settings)
    registry = Registry([table, CHAT])
    assert [str(part) for part in registry.parts(table.id)] == ["table@1#0", "table@1#1"]
    assert [str(part) for part in registry.parts(CHAT.id)] == ["smollm2@1"]


def test_only_a_models_own_name_is_contained() -> None:
    registry = Registry([CHAT])
    assert "smollm2" in registry
    assert "tiny" not in registry
    assert "default" not in registry


def version(number: str, name: str = "smollm2", *aliases: str) -> ModelSpec:
    return ModelSpec(
        name=ModelName(name),
        version=Version(number),
        kind=ModelKind.GENERATE,
        settings=ModelConfig(aliases=aliases),
    )


def test_the_bare_name_is_the_first_version_until_another_is_promoted() -> None:
    old, new = version("1", "smollm2", "small"), version("2", "smollm2", "small")
    registry = Registry([old, new])
    assert registry.resolve("smollm2") is registry.resolve("small") is old
    assert registry.resolve("smollm2@2") is new
    assert registry.aliases(old) == ("small", "default")
    registry.promote(new.id)
    assert registry.resolve("smollm2") is registry.resolve("small") is registry.resolve("default") is new
    assert registry.resolve("smollm2@1") is old
    with pytest.raises(ModelNotFound, match="smollm2@3"):
        registry.promote(ModelId(new.name, Version("3")))
    with pytest.raises(ConfigError, match="smollm2@2"):
        registry.add(new)


def test_an_alias_spreads_its_keys_by_weight_and_always_gives_a_key_the_same_model() -> None:
    registry = Registry([CHAT, version("1", "big")], {"chat": {"smollm2": 9, "big": 1}})
    chosen = {f"request-{i}": registry.resolve("chat", f"request-{i}").name for i in range(2000)}
    assert 120 < sum(name == "big" for name in chosen.values()) < 280
    assert all(registry.resolve("chat", key).name == name for key, name in chosen.items())


@pytest.mark.parametrize(
    ("alias", "targets", "says"),
    [
        ("chat", {}, "needs a model"),
        ("chat", {"smollm2": 0}, "weights of at least 1"),
        ("chat", {"salmon": 1}, "leads to 'salmon', which is no model"),
        ("chat", {"small": 1}, "leads to 'small', which is no model"),
        ("smollm2", {"smollm2": 1}, "there are two models called 'smollm2'"),
        ("chat@2", {"smollm2": 1}, "an alias has no version"),
        ("my chat", {"smollm2": 1}, "cannot be a model's name"),
    ],
)
def test_an_alias_that_leads_nowhere_is_refused(alias: str, targets: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Registry([CHAT]).point(alias, targets)
