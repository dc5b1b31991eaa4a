from __future__ import annotations

import pytest

from shoal.config import ModelConfig
from shoal.errors import ConfigError
from shoal.model_registry import Registry, aliases, make_spec
from shoal.model_registry.aliases import Aliases
from shoal.types import ModelName


def test_there_is_a_limit_and_what_is_there_can_still_be_pointed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "MAX_ALIASES", 2)
    registry = Registry()
    for alias in ("a", "b"):
        registry.point(alias, {"one": 1}, known=False)
    with pytest.raises(ConfigError, match="2 aliases at most"):
        registry.point("c", {"one": 1}, known=False)
    with pytest.raises(ConfigError, match="2 aliases at most"):
        registry.add(make_spec("one", ModelConfig(uri="echo", aliases=("c",))))
    registry.point("b", {"two": 1}, known=False)
    assert registry.all_aliases() == {"a": {"one": 1}, "b": {"two": 1}}


def test_only_so_many_that_were_taken_away_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "REMOVED_KEPT", 2)
    made = Aliases()
    for alias in ("a", "b", "c"):
        made.take_away(alias)
    assert list(made.removed()) == ["b", "c"]
    made.lead("c", {"one": 1})
    assert list(made.removed()) == ["b"]


def test_a_copy_goes_its_own_way() -> None:
    made = Aliases()
    made.lead("a", {"one": 1})
    other = made.copy()
    other.take_away("a")
    other.lead("b", {"two": 1})
    assert ("a" in made, list(made.removed())) == (True, [])
    assert made.leading_to({"one", "two"}) == ("a",)


@pytest.mark.parametrize("targets", [{"two": 1}, {"one": 1, "two": 1}])
def test_a_name_is_free_for_the_model_that_it_leads_to_alone(targets: dict[str, int]) -> None:
    made = Aliases()
    made.lead("mine", {"one": 3})
    made.lead("theirs", targets)
    made.check_free("mine", of=ModelName("one"))
    made.check_free("new", of=ModelName("one"))
    with pytest.raises(ConfigError, match="already an alias of "):
        made.check_free("theirs", of=ModelName("one"))
