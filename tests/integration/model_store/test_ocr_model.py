"""The real recogniser, from the package that is installed with the development tools, on pictures drawn here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from pictures import line_of_text

from shoal.engines.base import EngineOptions
from shoal.engines.onnx import OnnxEngine
from shoal.errors import InvalidRequest, ModelLoadFailed
from shoal.model_store import find, no_progress, ppocr, pull
from shoal.types import Tensors
from shoal.worker.pipeline import TensorParts, TensorPipeline

TEXTS = [
    "Many small fish move as one",
    "a",
    "Total: 17.50 EUR (VAT 19%)",
    "The quick brown fox jumps over the lazy dog, twice.",
]


@pytest.fixture(scope="module")
def ocr(tmp_path_factory: pytest.TempPathFactory) -> TensorPipeline:
    entry = find("ocr")
    try:
        metadata.distribution(entry.package)
    except metadata.PackageNotFoundError:
        pytest.skip("the package of ocr is not installed")
    folder = pull("ocr", tmp_path_factory.mktemp("cache"), no_progress)
    engine = OnnxEngine(folder / "model.onnx", EngineOptions())
    return TensorParts(engine, folder, entry.preproc, entry.postproc).join()


def images(*files: bytes) -> Tensors:
    return {"image": np.array([[file] for file in files], object)}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_line_of_text_is_read(ocr: TensorPipeline, kind: str) -> None:
    made = ocr.run(images(*(line_of_text(text, kind=kind) for text in TEXTS)))
    assert [text.decode() for text in made["text"][:, 0]] == TEXTS
    assert (made["score"] > 0.9).all()


def test_it_reads_any_size_and_colour(ocr: TensorPipeline) -> None:
    files = [line_of_text("Shoal", size=size, colour="yellow", ground="navy") for size in (16, 48, 300)]
    assert {text.decode() for text in ocr.run(images(*files))["text"][:, 0]} == {"Shoal"}


def test_a_row_is_read_alone_as_in_company(ocr: TensorPipeline) -> None:
    files = [line_of_text(text) for text in TEXTS]
    together = ocr.run(images(*files))
    for row, file in enumerate(files):
        alone = ocr.run(images(file))
        assert alone["text"][0] == together["text"][row]
        np.testing.assert_allclose(alone["score"][0], together["score"][row], atol=1e-3)


def test_a_picture_without_text_has_none(ocr: TensorPipeline) -> None:
    assert ocr.run(images(line_of_text("")))["text"].tolist() == [[b""]]


def test_what_is_no_picture_is_refused(ocr: TensorPipeline) -> None:
    with pytest.raises(InvalidRequest, match="row 1 of 'image' is not a picture"):
        ocr.run(images(line_of_text("fish"), b"fish"))


def test_it_describes_itself_as_promised(ocr: TensorPipeline) -> None:
    assert [(spec.name, spec.dtype, spec.shape) for spec in ocr.inputs] == [("image", "BYTES", (-1, 1))]
    assert [(spec.name, spec.dtype, spec.shape) for spec in ocr.outputs] == [
        ("text", "BYTES", (-1, 1)),
        ("score", "FP32", (-1, 1)),
    ]
    assert ocr.batchable


@pytest.mark.parametrize(("dictionary", "reason"), [("", "no dictionary"), ("a\nb", "other than 4 classes")])
def test_a_recogniser_that_does_not_fit_its_dictionary_is_refused(tmp_path: Path, dictionary: str, reason: str) -> None:
    value = onnx.helper.make_tensor_value_info
    identity = onnx.helper.make_node("Identity", ["x"], ["y"])
    inputs, outputs = (value(name, onnx.TensorProto.FLOAT, ["n", "t", 7]) for name in "xy")
    model = onnx.helper.make_model(onnx.helper.make_graph([identity], "g", [inputs], [outputs]))
    if dictionary:
        onnx.helper.set_model_props(model, {"character": dictionary})
    onnx.save(model, tmp_path / "rec.onnx")
    with pytest.raises(ModelLoadFailed, match=reason):
        ppocr.convert(tmp_path / "rec.onnx", tmp_path / "made", no_progress)
