from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal.config import ModelConfig, ShardConfig, TensorConfig
from shoal.errors import ConfigError, Conflict, ModelNotFound
from shoal.messages import ModelInfo
from shoal.model_registry import MAX_MODELS, ModelSpec, Placement, Registry, make_spec
from shoal.model_registry.registry import FORGET_AFTER
from shoal.types import ModelId, ModelKind, ModelName, ModelState, TensorSpec, Version


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
        (
            [TENSOR, CHAT],
            "x",
            "there is no model 'x'; there are 'minilm', 'smollm2', 'embed', 'small', 'tiny', 'default'",
        ),
        ([TENSOR], "minilm@", "there is no model 'minilm@'; of 'minilm' there are the versions 1"),
        ([TENSOR], "default", "there is no model 'default'; there are 'minilm', 'embed'"),
        ([model(f"m{i}") for i in range(100)], "x", "'m19' and 81 more"),
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
        ([CHAT, model("x", "smollm2@1")], "an alias has no version: 'smollm2@1'"),
    ],
)
def test_clashes_and_loops_are_refused(models: list[ModelSpec], says: str) -> None:
    registry = Registry(models[:-1])
    before = registry.list()
    with pytest.raises(ConfigError) as caught:
        registry.add(models[-1])
    assert caught.value.message == says
    assert registry.list() == before


def told(name: str, kind: ModelKind = ModelKind.TENSOR, number: str = "1", **more: Any) -> ModelInfo:
    return ModelInfo(ModelName(name), kind, more.pop("state", ModelState.READY), version=Version(number), **more)


def test_a_model_that_only_a_worker_knows_is_learned_once() -> None:
    registry = Registry([CHAT])
    for _ in range(2):
        registry.learn(told("new", number="7", state=ModelState.LOADING))
    assert [spec.name for spec in registry.list()] == ["smollm2", "new"]
    assert registry.resolve("new").kind is ModelKind.TENSOR
    assert registry.resolve("new").version == "7"


def test_a_loaded_model_completes_what_the_configuration_leaves_open_and_overrides_nothing() -> None:
    x, y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1,))
    configured = make_spec(
        "m", ModelConfig(uri="m.onnx", inputs=(TensorConfig(name="x", dtype="FP32", shape=(-1, 4)),))
    )
    registry = Registry([configured])
    registry.learn(told("m", state=ModelState.LOADING))
    assert registry.resolve("m") is configured
    info = told("m", inputs=(TensorSpec("z", "BOOL", (1,)),), outputs=(y,), batchable=False)
    registry.learn(info)
    found = registry.resolve("m")
    assert (found.inputs, found.outputs, found.batchable) == ((x,), (y,), False)
    registry.learn(info)
    assert registry.resolve("m") is found


def test_whether_a_model_is_batchable_can_be_configured() -> None:
    registry = Registry([make_spec("m", ModelConfig(uri="m.onnx", batchable=False))])
    registry.learn(told("m", batchable=True))
    assert registry.resolve("m").batchable is False


def test_versions_of_one_model_are_of_one_kind() -> None:
    registry = Registry([CHAT])
    with pytest.raises(ConfigError, match="'smollm2@2' infers on tensors, but 'smollm2@1' generates text"):
        registry.add(msgspec.structs.replace(version("2"), kind=ModelKind.TENSOR))
    with pytest.raises(ConfigError, match="'smollm2@1' generates text, but a worker's infers on tensors"):
        registry.learn(told("smollm2"))
    assert registry.list() == (CHAT,)


def test_the_number_of_models_is_bounded() -> None:
    registry = Registry(model(f"m{i}") for i in range(MAX_MODELS))
    with pytest.raises(ConfigError, match="limit"):
        registry.learn(ModelInfo(ModelName("one-more"), ModelKind.TENSOR, ModelState.READY))
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


@pytest.mark.parametrize("alias", ["", "my chat", "a/b", "a" * 65, "fish\n"])
def test_an_alias_of_a_models_settings_is_a_name_like_any_other(alias: str) -> None:
    registry = Registry()
    with pytest.raises(ConfigError, match="an alias is a name") as caught:
        registry.add(model("smollm2", alias))
    assert caught.value.param == "aliases"
    assert not registry.all_aliases()


def test_removing_a_model_takes_the_aliases_of_its_settings_with_it() -> None:
    registry = Registry([CHAT, TENSOR])
    registry.remove([CHAT.id])
    for name in ("smollm2", "smollm2@1", "small", "default"):
        with pytest.raises(ModelNotFound):
            registry.resolve(name)
    assert registry.resolve("embed") is TENSOR
    assert "smollm2" not in registry


@pytest.mark.parametrize(
    ("aliases", "removed", "says"),
    [
        ({}, ["1"], r"'smollm2@1' is the live version: promote another \(2\) first"),
        ({"chat": {"smollm2@2": 1}}, ["2"], "alias 'chat' leads to 'smollm2@2': point it elsewhere first"),
        ({"chat": {"smollm2": 1}}, ["1", "2"], "alias 'chat' leads to 'smollm2'"),
    ],
)
def test_what_is_live_or_has_an_alias_is_not_removed(
    aliases: dict[str, dict[str, int]], removed: list[str], says: str
) -> None:
    registry = Registry([version("1"), version("2")], aliases)
    before = registry.list()
    with pytest.raises(Conflict, match=says):
        registry.remove([version(number).id for number in removed])
    assert registry.list() == before
    assert registry.resolve("smollm2").version == "1"


def test_an_alias_of_the_bare_name_stays_while_a_version_does() -> None:
    registry = Registry([version("1", "smollm2", "small"), version("2")], {"chat": {"smollm2": 1}})
    registry.promote(version("2").id)
    registry.remove([version("1").id])
    assert registry.resolve("chat").version == registry.resolve("small").version == "2"


def test_a_removed_model_is_not_learned_again_until_it_is_added() -> None:
    registry = Registry([TENSOR])
    registry.remove([TENSOR.id])
    registry.learn(told("minilm"))
    assert not registry.list()
    registry.add(TENSOR)
    registry.learn(told("minilm", batchable=True))
    assert registry.resolve("minilm").batchable


def test_a_reserved_version_is_not_found_nor_learned_nor_taken_by_another() -> None:
    registry = Registry([version("1")])
    with registry.reserved(version("2")):
        registry.learn(told("smollm2", ModelKind.GENERATE, "2"))
        with pytest.raises(ModelNotFound):
            registry.resolve("smollm2@2")
        with pytest.raises(ConfigError, match="is being loaded already"):
            registry.add(version("2"))
    registry.add(version("2"))


def test_a_version_that_was_promoted_before_a_worker_told_of_it_is_live_from_then_on() -> None:
    registry = Registry()
    registry.promote(ModelId(ModelName("m"), Version("2")), known=False)
    registry.learn(told("m", number="1"))
    assert registry.resolve("m").version == "1"
    registry.learn(told("m", number="2"))
    assert registry.resolve("m").version == "2"


def test_an_alias_may_wait_for_its_model() -> None:
    registry = Registry()
    registry.point("chat", {"m@2": 1}, known=False)
    with pytest.raises(ModelNotFound, match="alias 'chat' leads to 'm@2', which no worker has told of yet"):
        registry.resolve("chat")
    registry.learn(told("m", number="2"))
    assert registry.resolve("chat").version == "2"
    registry.unpoint("chat")
    with pytest.raises(ModelNotFound, match="there is no model 'chat'"):
        registry.resolve("chat")


def test_a_registry_can_be_set_back_to_how_it_was() -> None:
    registry = Registry([version("1")], {"chat": {"smollm2": 1}})
    before = registry.snapshot()
    registry.add(version("2"), Placement(replicas=1))
    registry.promote(version("2").id)
    registry.unpoint("chat")
    assert registry.resolve("smollm2").version == "2"
    registry.restore(before)
    assert registry.resolve("smollm2").version == "1"
    assert [spec.version for spec in registry.list()] == ["1"]
    assert registry.resolve("chat").version == "1"
    assert not registry.placements()
    registry.add(version("2"))  # the snapshot and the registry share nothing
    assert len(before) == 1


def learned(name: str, version: str = "1") -> ModelInfo:
    return ModelInfo(ModelName(name), ModelKind.TENSOR, ModelState.READY, version=Version(version))


def test_what_only_workers_told_of_is_forgotten_once_none_has_had_it_for_a_while() -> None:
    registry = Registry([CHAT])
    registry.learn(learned("m"))
    m = learned("m").id
    assert registry.forget_absent({m}, 0) == []
    assert registry.forget_absent(set(), 10) == []
    assert registry.forget_absent({m}, 60) == []  # it was there again: the time begins anew
    assert registry.forget_absent(set(), 70) == []
    assert registry.forget_absent(set(), 70 + FORGET_AFTER - 1) == []
    assert registry.forget_absent(set(), 70 + FORGET_AFTER) == [m]
    assert registry.forget_absent(set(), 1e6) == []
    assert "m" not in registry
    registry.learn(learned("m"))  # it may come back
    assert registry.resolve("m").id == m


def test_what_an_operator_named_is_not_forgotten() -> None:
    registry = Registry([make_spec("configured", ModelConfig(uri="echo"))])
    for info in (learned("m"), learned("n"), learned("n", "2"), learned("o")):
        registry.learn(info)
    registry.point("alias", {"m": 1})
    registry.promote(learned("n", "2").id)
    registry.forget_absent(set(), 0)
    assert registry.forget_absent(set(), FORGET_AFTER) == [learned("n").id, learned("o").id]
    assert registry.resolve("n").version == "2"


def test_when_the_live_version_is_forgotten_one_that_stays_answers() -> None:
    registry = Registry()
    registry.learn(learned("m", "1"))
    registry.learn(learned("m", "2"))
    assert registry.resolve("m").version == "1"
    for at in (0, FORGET_AFTER):
        registry.forget_absent({learned("m", "2").id}, at)
    assert registry.resolve("m").version == "2"


@pytest.mark.parametrize("name", ["default", "", "a\nb", "x" * 65, "a@b"])
def test_a_worker_cannot_bring_a_name_that_no_configuration_could_have(name: str) -> None:
    registry = Registry()
    with pytest.raises(ConfigError):
        registry.learn(learned(name))
    assert len(registry) == 0
