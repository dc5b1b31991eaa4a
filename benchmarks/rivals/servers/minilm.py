"""MiniLM on ONNX Runtime, for servers that take a model as a function: texts to embeddings of unit length."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer


class MiniLM:
    """The folder and the number of threads come from the environment."""

    def __init__(self) -> None:
        folder = Path(os.environ["MINILM"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(256)
        self._tokenizer.enable_padding()

    def __call__(self, texts: list[str]) -> npt.NDArray[np.float32]:
        tokens = self._tokenizer.encode_batch(texts)
        ids = np.array([row.ids for row in tokens], np.int64)
        mask = np.array([row.attention_mask for row in tokens], np.int64)
        (hidden,) = self._session.run(["hidden"], {"input_ids": ids, "attention_mask": mask})
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        embeddings: npt.NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return embeddings.astype(np.float32)
