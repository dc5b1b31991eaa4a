from __future__ import annotations

import pytest

from shoal.api.app import build_app
from shoal.api.testing import AsgiClient, FakePlane


@pytest.fixture
def plane() -> FakePlane:
    return FakePlane()


@pytest.fixture
def client(plane: FakePlane) -> AsgiClient:
    return AsgiClient(build_app(plane, metrics=lambda: b"shoal_up 1\n"))
