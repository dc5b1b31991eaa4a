"""An environment for each set of pinned packages, made once, in the user's cache folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from rivals.entrant import Entrant, Server
from shoal.config import Config, cache_folder

INSTALL_WITHIN: Final = 1200.0  # seconds; the largest has 3 GB
NEEDED_BYTES: Final = 8 * 2**30  # free on the disk before anything is installed


class NotInstalled(Exception):
    """The reason is its text."""


def folder() -> Path:
    return cache_folder(Config()) / "rivals"


def python(entrant: Entrant) -> Path:
    """The interpreter that an entrant runs on."""
    if not entrant.packages:
        return Path(sys.executable)
    named = hashlib.sha256("\n".join(entrant.packages).encode()).hexdigest()[:12]
    return folder() / named / "bin" / "python"


def is_installed(entrant: Entrant) -> bool:
    return not entrant.packages or _stamp(entrant).exists()


def _stamp(entrant: Entrant) -> Path:
    return python(entrant).parent.parent / "installed"


def install(entrant: Entrant) -> None:
    """Does nothing where it has been done. Raises :class:`NotInstalled`."""
    if is_installed(entrant):
        return
    interpreter = python(entrant)
    environment = interpreter.parent.parent
    environment.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(environment).free < NEEDED_BYTES:
        raise NotInstalled(f"less than {NEEDED_BYTES >> 30} GB are free for {environment}")
    print(f"installing {', '.join(entrant.packages)} into {environment}", flush=True)
    _run(sys.executable, "-m", "venv", "--clear", str(environment))
    _run(str(interpreter), "-m", "pip", "install", "--quiet", *entrant.packages)
    for command in entrant.finish(interpreter) if isinstance(entrant, Server) else ():
        _run(*command)
    _stamp(entrant).write_text("\n".join(entrant.packages))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_WITHIN, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{' '.join(command[1:4])} took longer than {INSTALL_WITHIN:.0f} s") from error
    if done.returncode:
        raise NotInstalled((done.stderr or done.stdout).strip()[-500:] or f"exit code {done.returncode}")
