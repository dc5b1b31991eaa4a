"""The small parts on their own: keepalive, budget, addresses."""

from __future__ import annotations

import pytest

from shoal.errors import ConfigError
from shoal.rpc.keepalive import Keepalive, Pulse, Verdict
from shoal.rpc.limits import Budget
from shoal.rpc.network import join_address, split_address


def test_a_silent_peer_is_pinged_and_then_lost() -> None:
    pulse = Pulse(Keepalive(interval=5, timeout=2), now=100)
    assert pulse.check(100) == (Verdict.WAIT, 5)
    assert pulse.check(104) == (Verdict.WAIT, 1)
    assert pulse.check(105) == (Verdict.PING, 2)
    assert pulse.check(106) == (Verdict.WAIT, 1)
    assert pulse.check(107) == (Verdict.LOST, 0)


def test_any_sign_of_life_begins_the_wait_anew() -> None:
    pulse = Pulse(Keepalive(interval=5, timeout=2), now=100)
    pulse.hear(103)
    assert pulse.check(105) == (Verdict.WAIT, 3)
    assert pulse.check(108) == (Verdict.PING, 2)
    pulse.hear(109)
    assert pulse.check(110) == (Verdict.WAIT, 4)


def test_a_budget_is_taken_whole_or_not_at_all() -> None:
    budget = Budget(calls=2, size=10)
    assert not budget.take(11)
    assert budget.take(4)
    assert not budget.take(7)
    assert budget.take(6)
    assert not budget.take(0)
    budget.give_back(4)
    assert budget.take(4)


@pytest.mark.parametrize("address", ["localhost:9000", "[::1]:0", "10.0.0.1:65535"])
def test_addresses_come_apart_and_together(address: str) -> None:
    assert join_address(*split_address(address)) == address


@pytest.mark.parametrize("address", ["", "host", ":9000", "host:", "host:x", "host:-1", "host:65536", "host:²"])
def test_what_is_no_address_is_a_mistake_of_the_configuration(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        split_address(address)
