from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import ModelLoadFailed
from shoal.model_store.lock import exclusive


def test_a_second_holder_is_refused_when_its_time_is_up(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / ".lock", timeout=0),
        pytest.raises(ModelLoadFailed, match="another process has held"),
        exclusive(tmp_path / ".lock", timeout=0),
    ):
        pytest.fail("two hold one lock")


def test_the_lock_is_free_again_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), exclusive(tmp_path / ".lock", timeout=0):
        raise KeyboardInterrupt
    with exclusive(tmp_path / ".lock", timeout=0):
        pass
