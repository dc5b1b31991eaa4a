"""Conversion of a GGUF with a tiny random model, in the real child process with the real OpenVINO."""

from __future__ import annotations

import hashlib
import signal
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from shoal.engines.base import EngineOptions, Row
from shoal.engines.gguf_tokenizer import BYTE_OF
from shoal.engines.model_folder import read_card
from shoal.engines.openvino import OpenVINOEngine
from shoal.errors import ModelLoadFailed
from shoal.model_store import convert_gguf
from shoal.model_store.convert_gguf import convert, supported_architecture

LAYERS, WIDTH, HEADS, INNER = 2, 64, 2, 128
TOKENS = [*BYTE_OF, "hi", "<|im_start|>", "<|im_end|>", *(f"<pad{i}>" for i in range(29))]
IM_END = TOKENS.index("<|im_end|>")
FILES = {"model.json", "openvino_model.bin", "openvino_model.xml", "tokenizer.json"}


def ignore(stage: str, fraction: float) -> None:
    pass


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    quantised: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16,
    fields: dict[str, int | str] | None = None,
    tensors: tuple[str, ...] = (),
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * 257 + [3] * (len(TOKENS) - 257))
    writer.add_token_merges(["h i"])
    writer.add_eos_token_id(IM_END)
    writer.add_bos_token_id(IM_END - 1)
    writer.add_chat_template("{{ messages[0].content }}")
    for key, value in (fields or {}).items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    for name, shape in (shapes() | dict.fromkeys(tensors, (WIDTH,))).items():
        weights = np.random.default_rng(len(name)).normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
        else:
            writer.add_tensor(name, gguf.quantize(weights, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shapes() -> dict[str, tuple[int, ...]]:
    block: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    blocks = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in block.items()}
    return {"token_embd.weight": (len(TOKENS), WIDTH), **blocks, "output_norm.weight": (WIDTH,)}


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_converted_model_serves(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf")
    told: list[tuple[str, float]] = []
    convert(source, tmp_path / "models" / "tiny", lambda stage, fraction: told.append((stage, fraction)))

    assert leftovers(tmp_path / "models") == {"tiny"}
    assert leftovers(tmp_path / "models" / "tiny") == FILES
    assert told[-1] == ("build the graph", 1.0)
    assert ("quantise", 1.0) in told

    card = read_card(tmp_path / "models" / "tiny")
    assert (card.architecture, card.context_length, card.eos_ids) == ("llama", 128, (IM_END,))
    assert card.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert card.made_with.keys() >= {"shoal", "gguf", "openvino-genai"}

    engine = OpenVINOEngine(tmp_path / "models" / "tiny", EngineOptions(kv_tokens=256))
    logits = engine.step([Row(engine.tokenizer.encode("hi there", special=True), 0, (0,), wants_logits=True)])
    assert logits.shape == (1, len(TOKENS))
    engine.close()


def test_a_second_conversion_keeps_the_first(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf")
    there = tmp_path / "there"
    there.mkdir()
    (there / "first").touch()
    convert(source, there, ignore)
    assert leftovers(there) == {"first"}
    assert leftovers(tmp_path) == {"tiny.gguf", "there"}


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "gemma3"},
        {"pre": "tekken"},
        {"fields": {"llama.expert_count": 8}},
        {"fields": {"llama.rope.scaling.type": "yarn"}},
        {"tensors": ("rope_freqs.weight",)},
    ],
)
def test_what_cannot_be_converted_is_known_beforehand_and_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = write_gguf(tmp_path / "other.gguf", **changes)
    assert supported_architecture(source) is None
    with pytest.raises(ModelLoadFailed, match="not a model that can be converted"):
        convert(source, tmp_path / "converted", ignore)
    assert leftovers(tmp_path) == {"other.gguf"}


def test_a_supported_architecture_is_named(tmp_path: Path) -> None:
    assert supported_architecture(write_gguf(tmp_path / "tiny.gguf")) == "llama"


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"no model at all, but long enough for a header", b"GGUF" + b"\xff" * 60]
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "broken.gguf"
    source.write_bytes(content)
    with pytest.raises(ModelLoadFailed, match="is not a GGUF"):
        supported_architecture(source)
    with pytest.raises(ModelLoadFailed, match="is not a GGUF"):
        convert(source, tmp_path / "converted", ignore)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="No such file"):
        supported_architecture(tmp_path / "missing.gguf")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf")
    source.write_bytes(source.read_bytes()[:-20_000])
    with pytest.raises(ModelLoadFailed, match="is not a GGUF"):
        convert(source, tmp_path / "converted", ignore)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os, signal; print('last words'); os.kill(os.getpid(), signal.SIGSEGV)", "signal 11: last words"),
        ("raise SystemExit(3)", "status 3"),
        ("import time; time.sleep(60)", f"signal {signal.SIGKILL:d}"),
    ],
)
def test_a_converter_that_dies_kills_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setattr(convert_gguf, "COMMAND", (sys.executable, "-uc", script))
    monkeypatch.setattr(convert_gguf, "DEADLINE", 1.0)
    with pytest.raises(ModelLoadFailed, match=reason):
        convert(tmp_path / "any.gguf", tmp_path / "converted", ignore)
    assert leftovers(tmp_path) == set()


def test_who_gives_up_leaves_nothing_behind(tmp_path: Path) -> None:
    class GaveUp(BaseException):
        pass

    def give_up(stage: str, fraction: float) -> None:
        raise GaveUp

    with pytest.raises(GaveUp):
        convert(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "converted", give_up)
    assert leftovers(tmp_path) == {"tiny.gguf"}
