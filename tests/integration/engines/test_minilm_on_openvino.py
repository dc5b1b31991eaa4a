"""MiniLM on OpenVINO against ONNX Runtime, and against itself in other company."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from models import CACHE, minilm_folder

from shoal.config import ModelConfig
from shoal.engines.base import EngineOptions
from shoal.engines.onnx import OnnxEngine
from shoal.engines.openvino_tensors import OpenVINOTensorEngine
from shoal.errors import EngineFailed, InvalidRequest
from shoal.model_registry import make_spec
from shoal.types import Array, Tensors
from shoal.worker.loading import tensor_parts
from shoal.worker.pipeline import TensorPipeline

REFERENCE = json.loads((Path(__file__).parent.parent / "model_store/data/minilm_reference.json").read_text())["rows"]


@cache
def engine(threads: int) -> OpenVINOTensorEngine:
    return OpenVINOTensorEngine(minilm_folder() / "model.onnx", EngineOptions(threads))


def rows(count: int, length: int) -> Tensors:
    random = np.random.default_rng(3)
    mask = np.zeros((count, length), np.int64)
    for row, end in zip(mask, random.integers(1, length + 1, count), strict=True):
        row[:end] = 1
    return {"input_ids": random.integers(1000, 30_000, (count, length)), "attention_mask": mask}


def pick(inputs: Tensors, which: slice) -> Tensors:
    return {name: array[which] for name, array in inputs.items()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("length", [5, 16, 33, 128])
def test_a_row_has_the_same_bits_alone_and_in_any_company(threads: int, length: int) -> None:
    inputs = rows(32, length)
    together = engine(threads).run(inputs)["hidden"]
    for count in (1, 2, 3, 7, 31):
        for start in (0, 1, 32 - count):
            some = slice(start, start + count)
            assert np.array_equal(engine(threads).run(pick(inputs, some))["hidden"], together[some])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("length", [17, 32, 128])
def test_a_row_has_the_same_bits_beside_a_longer_one(threads: int, length: int) -> None:
    inputs = rows(4, 16)
    padded = {name: np.pad(array, ((0, 0), (0, length - 16))) for name, array in inputs.items()}
    real = inputs["attention_mask"].astype(bool)
    alone, beside = engine(threads).run(inputs)["hidden"], engine(threads).run(padded)["hidden"]
    assert np.array_equal(alone[real], beside[:, :16][real])


def cosines(a: Array, b: Array) -> Array:
    products: Array = np.sum(a * b, axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return products


def pipeline(uri: str) -> TensorPipeline:
    return tensor_parts(make_spec("minilm", ModelConfig(uri=uri)), CACHE, EngineOptions(1)).join()


def test_the_embeddings_are_nearly_onnx_runtimes() -> None:
    texts = np.array([[row["text"].encode()] for row in REFERENCE], dtype=object)
    fast, exact = (pipeline(uri).run({"text": texts})["embedding"] for uri in ("minilm?engine=openvino", "minilm"))
    assert cosines(fast, exact).min() > 0.999
    assert cosines(fast, np.array([row["embedding"] for row in REFERENCE])).min() > 0.999


@pytest.mark.parametrize(("uri", "kind"), [("minilm", OnnxEngine), ("minilm?engine=openvino", OpenVINOTensorEngine)])
def test_the_uri_chooses_the_engine(uri: str, kind: type) -> None:
    assert isinstance(pipeline(uri)._engine, kind)


@pytest.mark.parametrize(("ids", "mask"), [((2, 8), (2, 9)), ((2, 8), (3, 8)), ((1, 600), (1, 600))])
def test_inputs_that_do_not_fit_are_refused_and_the_next_run_is_as_ever(
    ids: tuple[int, int], mask: tuple[int, int]
) -> None:
    good = rows(2, 8)
    expected = engine(1).run(good)["hidden"]
    with pytest.raises(InvalidRequest, match=r"cannot take inputs of shapes \[.*inconsistent"):
        engine(1).run({"input_ids": np.ones(ids, np.int64), "attention_mask": np.ones(mask, np.int64)})
    assert np.array_equal(engine(1).run(good)["hidden"], expected)


def test_after_a_failure_it_computes_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    good, other = rows(2, 8), OpenVINOTensorEngine(minilm_folder() / "model.onnx", EngineOptions(2))
    expected = other.run(good)["hidden"]
    monkeypatch.setattr(other, "_check_shapes", lambda shapes: None)
    for _ in range(3):
        with pytest.raises(EngineFailed, match="OpenVINO failed"):
            other.run({"input_ids": good["input_ids"], "attention_mask": np.ones((2, 9), np.int64)})
        assert np.array_equal(other.run(good)["hidden"], expected)


def test_runs_beside_each_other_give_the_bits_that_each_gives_alone() -> None:
    inputs = [rows(count, length) for count, length in ((16, 64), (1, 5), (7, 33), (16, 64))]
    alone = [engine(2).run(one)["hidden"] for one in inputs]
    with ThreadPoolExecutor(engine(2).runs_at_once) as threads:
        for _ in range(5):
            beside = list(threads.map(lambda one: engine(2).run(one)["hidden"], inputs))
            for got, expected in zip(beside, alone, strict=True):
                assert np.array_equal(got, expected)


def test_after_a_failure_beside_another_run_it_computes_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    good, other = rows(2, 8), OpenVINOTensorEngine(minilm_folder() / "model.onnx", EngineOptions(2))
    expected = other.run(good)["hidden"]
    monkeypatch.setattr(other, "_check_shapes", lambda shapes: None)
    with other._lane():  # as if another one ran
        with pytest.raises(EngineFailed, match="OpenVINO failed"):
            other.run({"input_ids": good["input_ids"], "attention_mask": np.ones((2, 9), np.int64)})
        assert np.array_equal(other.run(good)["hidden"], expected)
