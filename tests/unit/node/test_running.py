from __future__ import annotations

import resource

import pytest

from shoal.node import running


@pytest.mark.parametrize("unlimited", [False, True])
def test_a_process_takes_all_the_descriptors_it_may_have(unlimited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]

    def change(_kind: int, wanted: tuple[int, int]) -> None:
        if unlimited:
            raise ValueError("not allowed to raise maximum limit")
        limits.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", change)
    running._allow_descriptors()
    running._allow_descriptors()
    assert limits == [(1024, 4096)] + [(4096, 4096)] * (not unlimited)
