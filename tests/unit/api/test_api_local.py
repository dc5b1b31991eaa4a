"""Web pages of other sites cannot have the models work for them; every other client may say what it likes."""

from __future__ import annotations

import msgspec
import pytest

from shoal.api.testing import AsgiClient, FakePlane

CHAT = msgspec.json.encode({"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
EVIL, OWN = "http://evil.example", "http://127.0.0.1:9000"


async def status(client: AsgiClient, *, server: str = "127.0.0.1", **headers: str) -> int:
    """Of a chat that is sent as a form would send it."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    call = client.call("POST", "/v1/chat/completions", [CHAT], headers={"content-type": "text/plain", **given})
    call.scope["server"] = (server, 9000)
    await client.run(call)
    return call.answer.status


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:9000", "origin": EVIL},
        {"host": "127.0.0.1:9000", "origin": "null"},
        {"host": "127.0.0.1:9000", "sec_fetch_site": "cross-site"},
        {"host": "127.0.0.1:9000", "origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
        {"host": "evil.example", "origin": EVIL},  # its name leads here: the same site, for the browser
        {"host": "evil.example", "sec_fetch_site": "same-origin"},
        {"host": "evil.example", "origin": EVIL, "server": "::1"},
    ],
)
async def test_a_page_of_another_site_is_refused_before_anything_is_done(
    client: AsgiClient, plane: FakePlane, headers: dict[str, str]
) -> None:
    assert await status(client, **headers) == 403
    assert not plane.generated


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:9000"},
        {"host": "any.name", "content_type": "application/x-www-form-urlencoded"},  # curl -d
        {"host": "127.0.0.1:9000", "origin": OWN, "sec_fetch_site": "same-origin"},
        {"host": "localhost:9000", "origin": "http://localhost:9000"},
        {"host": "[::1]:9000", "origin": "http://[::1]:9000", "server": "::1"},
        {"host": "shoal.example", "origin": "https://shoal.example", "server": "10.0.0.7"},
    ],
)
async def test_other_clients_and_pages_of_this_server_are_answered(client: AsgiClient, headers: dict[str, str]) -> None:
    assert await status(client, **headers) == 200


async def test_what_only_reads_is_not_asked_where_it_comes_from(client: AsgiClient) -> None:
    assert (await client.request("GET", "/v1/models", headers={"origin": EVIL})).status == 200
