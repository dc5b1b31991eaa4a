"""Where a client calls from."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address


def parse(address: str) -> IPv4Address | IPv6Address | None:
    """None where it is no address. ``::ffff:127.0.0.1``, as a socket of both families names it, is 127.0.0.1."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_among(address: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    found = parse(address)
    return found is not None and any(found in network for network in networks)
