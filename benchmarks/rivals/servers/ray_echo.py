"""Ray Serve's side of the echo. Ray's own ports listen on every address: only where nothing outside can reach them."""

from __future__ import annotations

import sys
import threading
from typing import Any

import ray
from ray import serve


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.1})
class Echo:
    async def __call__(self, request: Any) -> Any:
        return await request.json()


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=4)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Echo.bind())  # type: ignore[attr-defined]
    threading.Event().wait()
