"""mosec, whose worker parses and writes JSON with orjson."""

from __future__ import annotations

from typing import Any

import orjson
from mosec import Server, Worker


class Fast(Worker):  # type: ignore[misc]
    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        body: bytes = orjson.dumps(data)
        return body


class Echo(Fast):
    def forward(self, data: Any) -> Any:
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Echo)
    server.run()
