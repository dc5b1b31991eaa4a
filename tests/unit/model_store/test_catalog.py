from __future__ import annotations

import re
from pathlib import Path

import pytest

from shoal.errors import ModelNotFound
from shoal.model_store import CATALOG, BuiltIn, find
from shoal.preproc import BUILT_IN as STEPS


@pytest.mark.parametrize("entry", CATALOG.values(), ids=CATALOG)
def test_every_entry_is_complete(entry: BuiltIn) -> None:
    assert find(entry.name) is entry
    assert entry.files
    assert len({file.name for file in entry.files}) == len(entry.files)
    assert all(file.size > 0 and re.fullmatch("[0-9a-f]{64}", file.sha256) for file in entry.files)
    assert {step.name for step in (*entry.preproc, *entry.postproc)} <= set(STEPS)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ModelNotFound, match="no built-in model 'gpt'; there are smollm2, minilm, ocr"):
        find("gpt")


def test_versions_live_apart(tmp_path: Path) -> None:
    assert find("smollm2").folder(tmp_path) == tmp_path / "models" / "smollm2-0.1.2"
