"""What holds for every test."""

from __future__ import annotations

import gc

from hypothesis import settings

# A busy machine makes one example slow now and then; that is not a fault of the code under test.
settings.register_profile("shoal", deadline=None, print_blob=True)
settings.load_profile("shoal")


def pytest_collection_finish() -> None:
    gc.freeze()  # what has been imported stays: no collection of garbage has to look at it again
