"""The small parts on their own: keepalive, budget, addresses."""

from __future__ import annotations

import pytest

from shoal.errors import ConfigError
from shoal.rpc.keepalive import Keepalive, Pulse, Verdict
from shoal.rpc.limits import Budget
from shoal.rpc.network import join_address, split_address


def test_a_silent_peer_is_pinged_and_then_lost() -> None:
    pulse = Pulse(Keepalive(interval=5, timeout=2))
    assert pulse.check(100, now=100) == (Verdict.WAIT, 5)
    assert pulse.check(100, now=104) == (Verdict.WAIT, 1)
    assert pulse.check(100, now=105) == (Verdict.PING, 2)
    assert pulse.check(100, now=106) == (Verdict.WAIT, 1)
    assert pulse.check(100, now=107) == (Verdict.LOST, 0)


def test_any_sign_of_life_begins_the_wait_anew() -> None:
    pulse = Pulse(Keepalive(interval=5, timeout=2))
    assert pulse.check(103, now=105) == (Verdict.WAIT, 3)
    assert pulse.check(103, now=108) == (Verdict.PING, 2)
    assert pulse.check(109, now=110) == (Verdict.WAIT, 4)
    assert pulse.check(109, now=114) == (Verdict.PING, 2)
    assert pulse.check(114, now=115) == (Verdict.WAIT, 4), "heard at the very moment of the ping"


def test_a_budget_has_room_for_so_many_calls_and_bytes() -> None:
    budget = Budget(calls=2, size=10)
    assert not budget.has_room(11)
    budget.take(4)
    assert not budget.has_room(7)
    assert budget.has_room(6)
    budget.take(6)
    assert not budget.has_room(0)
    budget.give_back(4)
    assert budget.has_room(4)


@pytest.mark.parametrize("address", ["localhost:9000", "[::1]:0", "10.0.0.1:65535"])
def test_addresses_come_apart_and_together(address: str) -> None:
    assert join_address(*split_address(address)) == address


@pytest.mark.parametrize("address", ["", "host", ":9000", "host:", "host:x", "host:-1", "host:65536", "host:²"])
def test_what_is_no_address_is_a_mistake_of_the_configuration(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        split_address(address)
