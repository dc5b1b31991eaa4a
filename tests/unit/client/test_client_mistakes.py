"""What a client says when it is not used as it should be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal.client import as_prompt
from shoal.errors import ConfigError, InvalidRequest, WorkerLost


@pytest.mark.parametrize(
    "use", [lambda client: client.models(), lambda client: client.embed(["a"]), lambda client: next(client.stream("a"))]
)
def test_a_client_that_is_not_open_says_how_to_open_it(use: Callable[[shoal.Client], object]) -> None:
    with pytest.raises(shoal.ShoalError, match="use it as `with Client"):
        use(shoal.Client())


def test_who_looks_into_the_package_finds_what_it_offers() -> None:
    assert set(shoal.__all__) <= set(dir(shoal))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9000", "127.0.0.1", "127.0.0.1:9000,fish"])
def test_an_address_of_another_form_is_refused_with_the_right_one(address: str) -> None:
    with pytest.raises(ConfigError, match=r"HOST:PORT, such as 127\.0\.0\.1:9000"):
        shoal.Client(address)


def test_a_coordinator_that_is_not_there_is_named() -> None:
    with socket.socket() as taken:  # bound, and takes no calls
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        expected = f"^cannot reach a coordinator at {address}: Connection refused$"
        with pytest.raises(WorkerLost, match=expected), shoal.Client(address):
            pass


@pytest.mark.parametrize(
    ("message", "complaint"),
    [({"role": "user"}, r"^messages\[0\]\.content: "), ({"role": 1, "content": "a"}, r"^messages\[0\]\.role: ")],
)
def test_a_message_that_lacks_something_is_named_with_its_field(message: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        as_prompt([message])


def test_a_sampling_value_out_of_range_is_named_first() -> None:
    with pytest.raises(InvalidRequest, match=r"^temperature: Expected") as raised:
        asyncio.run(shoal.AsyncClient().generate("a", temperature=-1))
    assert raised.value.param == "temperature"


def test_an_input_that_is_no_array_is_named() -> None:
    inputs: Any = {"x": [1, 2]}
    with pytest.raises(InvalidRequest, match=r"^x: expected a numpy array, got list$"):
        asyncio.run(shoal.AsyncClient().infer("fish", inputs))
