"""BentoML's side of the echo."""

from __future__ import annotations

import bentoml


@bentoml.service(workers=1, traffic={"timeout": 60})
class Echo:
    @bentoml.api  # type: ignore[untyped-decorator]
    def echo(self, data: list[int]) -> dict[str, list[int]]:
        return {"data": data}
