"""Namespaces of Linux for a contest: what runs in it cannot be reached from outside, and ends with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Final

from serving import END_WITHIN

_NAMESPACES: Final = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--pid",
    "--mount-proc",
    "--fork",
    "--kill-child",
]
_LOOPBACK: Final = ["ip", "link", "set", "lo", "up"]


def possible() -> bool:
    if not all(map(shutil.which, ("unshare", "ip"))):
        return False
    return subprocess.run([*_NAMESPACES, *_LOOPBACK], capture_output=True, check=False).returncode == 0


def run(*arguments: str) -> int:
    """This script again with ``arguments``, inside; returns its exit code. What ends this ends all of it."""
    script = f'{" ".join(_LOOPBACK)} && exec "$@"'
    with subprocess.Popen([*_NAMESPACES, "sh", "-c", script, "sh", sys.executable, *arguments]) as inside:
        try:
            return inside.wait()
        except KeyboardInterrupt:  # those inside were interrupted too, and are ending what they started
            return inside.wait(END_WITHIN + 5)
        finally:
            inside.kill()
