from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from shoal.errors import ModelLoadFailed
from shoal.model_store.catalog import ModelFile
from shoal.model_store.files import CHUNK, is_intact, write_verified

CONTENT = b"fish" * CHUNK  # four blocks
EXPECTED = ModelFile("package/model.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def ignore(done: int) -> None:
    return None


def test_a_good_file_appears_and_its_growth_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    write_verified(io.BytesIO(CONTENT), EXPECTED, tmp_path / "model.bin", told.append)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert told == [CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK]
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (CONTENT[:-1], f"expected {len(CONTENT)} bytes, got {len(CONTENT) - 1}"),
        (CONTENT + b"!", f"expected {len(CONTENT)} bytes, got more"),
        (b"dish" + CONTENT[4:], f"expected SHA-256 {EXPECTED.sha256}, got [0-9a-f]{{64}}"),
    ],
    ids=["truncated", "too long", "tampered"],
)
def test_a_bad_file_never_appears_and_the_old_one_stays(tmp_path: Path, content: bytes, complaint: str) -> None:
    target = tmp_path / "model.bin"
    target.write_bytes(b"old")
    with pytest.raises(ModelLoadFailed, match=complaint):
        write_verified(io.BytesIO(content), EXPECTED, target, ignore)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_verified(io.BytesIO(CONTENT), EXPECTED, tmp_path / "model.bin", interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.bin.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_verified(io.BytesIO(CONTENT), EXPECTED, tmp_path / "model.bin", ignore)
    assert list(tmp_path.iterdir()) == []


def test_intact_means_there_and_every_byte_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    assert not is_intact(path, EXPECTED.size, EXPECTED.sha256)
    path.write_bytes(CONTENT)
    assert is_intact(path, EXPECTED.size, EXPECTED.sha256)
    path.write_bytes(CONTENT[:-1] + b"!")
    assert not is_intact(path, EXPECTED.size, EXPECTED.sha256)
