"""Triton's side of the embeddings: its Python back end is given a batch of requests at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from minilm import MiniLM


class TritonPythonModel:
    def initialize(self, args: Any) -> None:
        self._model = MiniLM()

    def execute(self, requests: list[Any]) -> list[Any]:
        texts = [request.inputs()[0].as_numpy().reshape(-1) for request in requests]
        embeddings = self._model([text.decode() for text in np.concatenate(texts)])
        ends = np.cumsum([len(rows) for rows in texts])[:-1]
        return [pb.InferenceResponse([pb.Tensor("output", rows)]) for rows in np.split(embeddings, ends)]
