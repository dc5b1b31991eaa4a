"""Who asks: a proxy that is trusted says it, and nobody else."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from shoal.api.addresses import is_among
from shoal.api.app import build_app
from shoal.api.limits import ApiLimits
from shoal.api.testing import Answer, AsgiClient, FakePlane
from shoal.config import JobsConfig
from shoal.coordinator.admission import Admission
from shoal.coordinator.jobs import Jobs

PROXIES = (ip_network("127.0.0.1"), ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
EMBED = {"model": "minilm", "input": "hi"}
CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture
def behind_proxies(plane: FakePlane) -> AsgiClient:
    return AsgiClient(build_app(plane, metrics=bytes, limits=ApiLimits(trusted_proxies=PROXIES)))


async def embed(client: AsgiClient, address: str, tenant: str) -> Answer:
    headers = {"x-tenant": tenant}
    return await client.request("POST", "/v1/embeddings", json=EMBED, headers=headers, client=address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", "fd00::7"])
async def test_a_trusted_proxy_names_the_tenant(behind_proxies: AsgiClient, plane: FakePlane, address: str) -> None:
    assert (await embed(behind_proxies, address, "acme:eu/1")).status == 200
    assert plane.inferred[-1].tenant == "acme:eu/1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", EMBED),
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": "smollm2", "prompt": "hi", "max_tokens": 2}),
        (
            "/v2/models/minilm/infer",
            {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["hi"]}]},
        ),
    ],
)
async def test_no_surface_loses_the_tenant(
    behind_proxies: AsgiClient, plane: FakePlane, path: str, body: dict[str, object]
) -> None:
    answer = await behind_proxies.request("POST", path, json=body, headers={"x-tenant": "acme"})
    assert answer.status == 200
    assert {request.tenant for request in plane.inferred} | {request.tenant for request in plane.generated} == {"acme"}


@pytest.mark.parametrize("address", ["10.2.0.1", "::1", "", "proxy"])
async def test_from_anybody_else_the_header_is_refused(
    behind_proxies: AsgiClient, plane: FakePlane, address: str
) -> None:
    answer = await embed(behind_proxies, address, "acme")
    assert (answer.status, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "coordinator.trusted_proxies" in answer.json()["error"]["message"]
    assert not plane.inferred


async def test_nobody_is_trusted_unless_told_otherwise(client: AsgiClient) -> None:
    assert (await embed(client, "127.0.0.1", "acme")).status == 403


async def test_who_names_no_tenant_has_none(behind_proxies: AsgiClient, plane: FakePlane) -> None:
    await behind_proxies.request("POST", "/v1/chat/completions", json=CHAT)
    assert plane.generated[-1].tenant == ""


@pytest.mark.parametrize("tenant", ["", "two words", "x" * 65, "ä", 'a"b', "a,b"])
async def test_a_name_is_short_and_plain(behind_proxies: AsgiClient, tenant: str) -> None:
    answer = await embed(behind_proxies, "127.0.0.1", tenant)
    assert (answer.status, answer.json()["error"]["param"]) == (400, "x-tenant")


async def test_a_job_is_its_tenants_and_so_is_its_key(plane: FakePlane) -> None:
    jobs = Jobs(JobsConfig(), admission=Admission(9), max_running=4)
    limits = ApiLimits(trusted_proxies=PROXIES)
    client = AsgiClient(build_app(plane, metrics=bytes, jobs=jobs, limits=limits))
    ids = []
    for tenant in ("a", "b", "a"):
        headers = {"x-tenant": tenant, "idempotency-key": "k"}
        order = {"url": "/v1/chat/completions", "body": CHAT}
        answer = await client.request("POST", "/v1/jobs", json=order, headers=headers)
        ids.append(answer.json()["request_id"])
        await client.request("GET", f"/v1/jobs/{ids[-1]}/events")
    assert ids[0] == ids[2] != ids[1]
    assert [request.tenant for request in plane.generated] == ["a", "b"]
    assert [jobs.get(job_id).state for job_id in ids] == ["succeeded"] * 3
    await jobs.close()


def test_what_is_no_address_is_among_nothing() -> None:
    assert not is_among("nonsense", [ip_network("0.0.0.0/0"), ip_network("::/0")])
    assert is_among("8.8.8.8", [ip_network("0.0.0.0/0")])
    assert not is_among("8.8.8.8", [ip_network("::/0")])
