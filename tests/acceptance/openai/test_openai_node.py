"""The ``openai`` package for Node, unmodified; what it checks is in ``node/suite.mjs``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def node() -> str:
    """Node with the packages that the lock names; installs them when they are not there."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node is not installed")
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run([npm, "ci", "--ignore-scripts"], cwd=FOLDER, check=True, timeout=300)
    return node


def test_the_node_package_is_served(node: str, server_url: str) -> None:
    environment = {**os.environ, "SHOAL_URL": server_url}
    suite = subprocess.run(
        [node, "--test", "suite.mjs"], cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=300
    )
    assert suite.returncode == 0, suite.stdout + suite.stderr


def test_the_lock_names_no_place_to_download_from() -> None:
    assert '"resolved"' not in (FOLDER / "package-lock.json").read_text()
