from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.config import ModelConfig
from shoal.errors import ConfigError, ModelNotFound, ShoalError
from shoal.messages import ModelInfo
from shoal.model_registry import Placement, Records, Registry, changes, make_spec, records, restored
from shoal.types import ModelId, ModelKind, ModelName, ModelState, Version, WorkerId


def one(version: str) -> ModelId:
    return ModelId(ModelName("m"), Version(version))


def configured() -> Registry:
    """What a file says: two versions, the first with an alias, and another alias."""
    return Registry(
        [
            make_spec("m@1", ModelConfig(uri="m1.onnx", aliases=("short",))),
            make_spec("m@2", ModelConfig(uri="m2.onnx")),
        ],
        {"canary": {"m@1": 9, "m@2": 1}},
    )


def after(change: Registry) -> Registry:
    """What a restart with the same file makes of the records that the change wrote."""
    written = changes(records(configured()), records(change))
    return restored(configured(), {key: value for key, value in written.items() if value is not None})


def same(one: Registry, other: Registry) -> bool:
    return records(one) == records(other) and [one.is_live(s.id) for s in one.list()] == [
        other.is_live(s.id) for s in other.list()
    ]


def test_without_changes_nothing_is_stored_and_the_file_counts() -> None:
    assert changes(records(configured()), records(configured())) == {}
    assert same(restored(configured(), {}), configured())


def test_every_change_survives() -> None:
    changed = configured()
    loaded = make_spec("m@3", ModelConfig(uri="m3.onnx?engine=onnx"))
    changed.add(loaded, Placement(workers=(WorkerId("w1"),)))
    changed.promote(one("3"))
    changed.point("canary", {"m@3": 1})
    changed.unpoint("short")
    changed.remove([one("1")])
    kept = after(changed)
    assert same(kept, changed)
    assert kept.resolve("m") == kept.resolve("canary") == loaded
    assert kept.placements() == {one("3"): Placement(workers=(WorkerId("w1"),))}
    for name in ("m@1", "short"):
        with pytest.raises(ModelNotFound):
            kept.resolve(name)


def test_a_removed_model_stays_out_whoever_names_it() -> None:
    changed = configured()
    changed.point("canary", {"m@1": 1})
    changed.remove([one("2")])
    kept = after(changed)
    kept.learn(ModelInfo(ModelName("m"), ModelKind.TENSOR, ModelState.READY, version=Version("2")))
    assert [spec.version for spec in kept.list()] == ["1"]


def test_what_the_store_has_wins_and_what_is_new_in_the_file_is_added() -> None:
    stored = {"models/m@1": b'{"settings":{"uri":"stored.onnx"}}', "live/m": b'"2"', "aliases/canary": b'{"m@2":1}'}
    kept = restored(configured(), stored)
    assert kept.resolve("m@1").settings.uri == "stored.onnx"
    assert kept.resolve("m").version == kept.resolve("canary").version == "2"
    assert kept.resolve("m@2").settings.uri == "m2.onnx"


def test_models_that_only_workers_tell_of_are_not_kept_but_what_was_said_of_them_is() -> None:
    told = [ModelInfo(ModelName("own"), ModelKind.TENSOR, ModelState.READY, version=Version(v)) for v in ("1", "2")]
    changed = configured()
    for info in told:
        changed.learn(info)
    changed.promote(told[1].id)
    changed.point("alias", {"own@2": 1})
    kept = after(changed)
    assert "own" not in kept
    for info in told:
        kept.learn(info)
    assert kept.resolve("own").version == kept.resolve("alias").version == "2"


def test_an_alias_that_went_from_one_model_to_another_stays_with_it() -> None:
    changed = configured()
    changed.unpoint("short")
    changed.add(make_spec("other", ModelConfig(uri="echo", aliases=("short",))), Placement())
    assert after(changed).resolve("short").name == "other"


def test_the_aliases_of_a_removed_model_stay_away_with_it() -> None:
    changed = configured()
    changed.unpoint("canary")
    changed.remove([one("1"), one("2")])
    kept = after(changed)
    assert not kept.all_aliases()
    kept.add(make_spec("other", ModelConfig(uri="echo", aliases=("short",))))


def test_a_version_beside_a_workers_own_does_not_become_live_by_a_restart() -> None:
    own = ModelInfo(ModelName("own"), ModelKind.TENSOR, ModelState.READY)
    changed = configured()
    changed.learn(own)
    changed.add(make_spec("own@2", ModelConfig(uri="echo")), Placement())
    kept = after(changed)
    kept.learn(own)
    assert changed.resolve("own").version == kept.resolve("own").version == "1"


def change(registry: Registry, what: str, name: str, version: str, alias: str) -> None:
    """As an operator would; one of what may be changed."""
    model = ModelId(ModelName(name), Version(version))
    match what:
        case "add":
            registry.add(make_spec(str(model), ModelConfig(uri="echo")), Placement())
        case "add with an alias":
            registry.add(make_spec(str(model), ModelConfig(uri="echo", aliases=(alias,))), Placement())
        case "remove":
            registry.remove([model])
        case "remove all":
            registry.remove([spec.id for spec in registry.versions(name)])
        case "promote":
            registry.promote(model)
        case "point":
            registry.point(alias, {name: 2, str(model): 1})
        case "unpoint":
            registry.unpoint(alias)


def answers(registry: Registry) -> dict[str, str]:
    """Which model each name leads to."""
    found = {}
    for name in ("m", "n", "m@1", "m@2", "n@3", "short", "canary", "fish", "default"):
        with suppress(ModelNotFound):
            found[name] = str(registry.resolve(name, key="a").id)
    return found


CHANGES = ("add", "add with an alias", "remove", "remove all", "promote", "point", "unpoint")
steps = st.tuples(st.sampled_from(CHANGES), st.sampled_from("mn"), st.sampled_from("123"))


@example([(("unpoint", "m", "1"), "short"), (("add with an alias", "n", "1"), "short")])
@given(st.lists(st.tuples(steps, st.sampled_from(["short", "canary", "n", "fish"])), max_size=8))
def test_whatever_was_changed_a_restart_finds_it_as_it_was(
    changes_made: Sequence[tuple[tuple[str, str, str], str]],
) -> None:
    changed, stored = configured(), dict[str, bytes]()
    found = answers(changed)
    for step, alias in changes_made:
        before = changed.snapshot()
        try:
            change(changed, *step, alias)
        except ShoalError:
            changed.restore(before)
        for key, value in changes(records(before), records(changed)).items():
            stored.pop(key, None)
            stored |= {} if value is None else {key: value}
        found = answers(changed)
    kept = restored(configured(), stored)
    assert answers(kept) == answers(changed) == found
    assert {str(spec.id) for spec in kept.list()} == {str(spec.id) for spec in changed.list()}
    assert kept.all_aliases() == changed.all_aliases()
    assert [kept.is_live(spec.id) for spec in changed.list()] == [changed.is_live(spec.id) for spec in changed.list()]


def test_what_is_no_longer_there_is_deleted() -> None:
    before = {"models/m@1": b"{}", "live/m": b'"1"', "aliases/a": b"{}"}
    assert changes(before, {"models/m@1": b"null", "aliases/a": b"{}"}) == {"models/m@1": b"null", "live/m": None}


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ({"models/m@3": b"{"}, "the record 'models/m@3' of the registry cannot be used"),
        ({"models/m@3": b'{"settings":{"uri":"x","speed":1}}'}, "models/m@3.*speed"),
        ({"models/m@3": b'{"settings":{"uri":"what is this"}}'}, "models/m@3.*is not a model"),
        ({"models/../x": b"null"}, "cannot be a model's name"),
        ({"live/m": b"3"}, "live/m"),
        ({"aliases/canary": b'{"m":0}'}, "weights of at least 1"),
        ({"models/canary@1": b'{"settings":{"uri":"echo"}}'}, "there are two models called 'canary'"),
        ({"aliases/a": b"\xff"}, "aliases/a"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(stored: Records, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        restored(configured(), stored)
