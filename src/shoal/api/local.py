"""Who may change things: clients on this machine that are no web page. And which web pages may ask for work.

Browsers reach loopback too. A page of some other site can send requests there, and with a name that its owner has
pointed at 127.0.0.1 it can read the answers as well. What it cannot do is to leave out the Host and Origin that tell.
"""

from __future__ import annotations

from shoal.api.addresses import parse
from shoal.api.asgi import Exchange
from shoal.errors import Forbidden, InvalidRequest

HINT = "; set coordinator.admin to 'any' where another guard stands before it"

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")  # what proxies add for somebody else


def check_client(exchange: Exchange, *, anybody: bool) -> None:
    """Raises :class:`Forbidden`, and :class:`InvalidRequest` for a write that does not say it is JSON.

    ``anybody``: clients of other machines too; web pages of other sites are refused all the same.
    """
    _check_site(exchange)
    if not anybody:
        if not _is_loopback(exchange.client):
            raise Forbidden(f"/admin answers to clients on its own machine alone, not to {exchange.client}{HINT}")
        if forwarded := [name for name in FORWARDED if _header(exchange, name)]:
            raise Forbidden(f"/admin does not answer through a proxy ('{forwarded[0]}' is set){HINT}")
        host = _host(_header(exchange, "host"))
        if host != "localhost" and not _is_loopback(host):
            raise Forbidden(f"/admin answers at 127.0.0.1, [::1] and localhost, not at '{host[:64]}'{HINT}")
    # A form can be sent to any site, but never as JSON.
    media_type = _header(exchange, "content-type").partition(";")[0].strip().lower()
    if exchange.method in ("POST", "PUT") and media_type != "application/json":
        raise InvalidRequest("content-type must be application/json", param="content-type")


def check_page(exchange: Exchange) -> None:
    """Raises :class:`Forbidden` for what a page of another site sends; who is no web page is not asked for more.

    Such a page reads no answer, but it could have the models work for it. Browsers send Origin with every POST and
    DELETE, so that other clients, which send none, may say what they like in Host and content-type.
    """
    if exchange.header(b"origin") is None and exchange.header(b"sec-fetch-site") is None:
        return
    _check_site(exchange)
    host = _host(_header(exchange, "host"))
    if _is_loopback(exchange.server) and host != "localhost" and not _is_loopback(host):
        # Its own name, pointed at this machine, makes a page of another site look like one of this.
        raise Forbidden(f"web pages are answered at 127.0.0.1, [::1] and localhost, not at '{host[:64]}'")


def _check_site(exchange: Exchange) -> None:
    origin, host = _header(exchange, "origin"), _header(exchange, "host")
    own = (f"http://{host}", f"https://{host}")
    if (origin and origin not in own) or _header(exchange, "sec-fetch-site") in ("cross-site", "same-site"):
        raise Forbidden("this server does not answer to pages of other sites")


def _header(exchange: Exchange, name: str) -> str:
    return (exchange.header(name.encode()) or b"").decode("latin-1")


def _host(header: str) -> str:
    """``[::1]:9000`` without its port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def _is_loopback(address: str) -> bool:
    found = parse(address)
    return found is not None and found.is_loopback
