from __future__ import annotations

from pathlib import Path

import pytest

from shoal.engines.model_folder import CARD_FILE, ModelCard, read_card, write_card
from shoal.errors import ModelLoadFailed


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card = ModelCard(
        architecture="llama", context_length=8192, eos_ids=(2, 0), bos_id=1, chat_template="é", made_with={"a": "1"}
    )
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card


def test_a_folder_without_a_card_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"model\.json: No such file"):
        read_card(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"architecture": "llama"}', b"\xff"])
def test_a_damaged_card_does_not_load(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CARD_FILE).write_bytes(content)
    with pytest.raises(ModelLoadFailed, match="not a model card"):
        read_card(tmp_path)
