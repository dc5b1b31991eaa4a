"""mosec with batches of up to 32 that wait 10 ms at most."""

from __future__ import annotations

import orjson
from minilm import MiniLM
from mosec import Server, Worker


class Embed(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._model = MiniLM()

    def deserialize(self, data: bytes) -> str:
        text: str = orjson.loads(data)["text"]
        return text

    def forward(self, data: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._model(data).tolist()
        return rows

    def serialize(self, data: list[float]) -> bytes:
        body: bytes = orjson.dumps({"embedding": data})
        return body


if __name__ == "__main__":
    server = Server()
    server.append_worker(Embed, max_batch_size=32, max_wait_time=10)
    server.run()
