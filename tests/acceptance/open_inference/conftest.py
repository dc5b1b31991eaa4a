from __future__ import annotations

from collections.abc import Iterator

import pytest
from processes import shoal, until_ready


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """HOST:PORT of a running Shoal that serves ``echo``, two versions of ``same`` and ``minilm``."""
    models = ("echo", "minilm", "same@1=echo", "same@2=echo")
    with shoal("serve", *models, "--workers", "1", "--listen-port", "0") as command:
        found = command.wait_for(r"coordinator serves on http://(\S+)")[1]
        until_ready(f"http://{found}", command)
        yield found
