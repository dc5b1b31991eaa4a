"""A port that another program has."""

from __future__ import annotations

import asyncio
import re
import socket

import msgspec
import pytest

from shoal.config import Config, CoordinatorConfig
from shoal.errors import ConfigError
from shoal.node import CoordinatorNode


def test_a_taken_port_is_an_error_that_says_how_to_choose_another() -> None:
    async def scenario(port: int) -> None:
        config = msgspec.structs.replace(Config(), coordinator=CoordinatorConfig(port=port))
        node = CoordinatorNode(config)
        expected = re.escape(f"cannot listen on 127.0.0.1:{port}: ") + ".*--listen-port or SHOAL_COORDINATOR_PORT"
        with pytest.raises(ConfigError, match=expected):
            await node.start()
        await node.stop()

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        asyncio.run(scenario(other.getsockname()[1]))
