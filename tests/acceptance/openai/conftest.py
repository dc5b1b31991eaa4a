from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI


@pytest.fixture(scope="session")
def server_url(shoal_url: str) -> str:
    """A running Shoal that serves ``smollm2`` and ``minilm``."""
    return shoal_url


@pytest.fixture(scope="session")
def client(server_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client
