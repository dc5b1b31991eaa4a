"""One real Shoal for all acceptance tests: the command line's ``serve`` with a language and an embedding model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from processes import Command, shoal, until_ready


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[str, Command]]:
    """The address HOST:PORT, and the command that serves there."""
    with shoal("serve", "smollm2", "minilm", "--workers", "2", "--listen-port", "0") as command:
        address = command.wait_for(r"coordinator serves on http://(\S+)")[1]
        until_ready(f"http://{address}", command)
        yield address, command


@pytest.fixture(scope="session")
def shoal_url(served: tuple[str, Command]) -> str:
    return f"http://{served[0]}"
