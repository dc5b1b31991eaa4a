"""A GGUF file becomes a folder that the OpenVINO engine serves (``engines.model_folder`` says what is in it).

Conversion needs ``gguf`` and ``openvino_genai``, serving neither. The weights are quantised to Q8_0 on the way:
OpenVINO's own reader loses much of Q4_1 (a third of the greedy tokens change) and cannot read all types. The work
is done in a child process, ``python -m shoal.model_store.convert_gguf SOURCE FOLDER``, since native code that
reads a file from elsewhere may crash.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np

from shoal.engines.gguf_tokenizer import adds_bos, build_tokenizer, end_ids, family_of
from shoal.engines.model_folder import TOKENIZER_FILE, ModelCard, write_card
from shoal.errors import ErrorInfo, ModelLoadFailed, ShoalError, from_info
from shoal.model_store.progress import Progress

ARCHITECTURES = frozenset(("llama", "qwen2"))
COMMAND = (sys.executable, "-m", "shoal.model_store.convert_gguf")
DEADLINE = 1800.0  # seconds for one conversion
Q8_0 = gguf.GGMLQuantizationType.Q8_0
F32 = gguf.GGMLQuantizationType.F32
FILE_TYPE_Q8_0 = 7  # llama.cpp's number for a file that is mostly Q8_0


class _Stage(msgspec.Struct, frozen=True, tag=True):
    name: str
    fraction: float


class _Failed(msgspec.Struct, frozen=True, tag=True):
    error: ErrorInfo


#: What the child prints, one JSON object a line. The native code beneath it may print anything else.
_Line = _Stage | _Failed


def supported_architecture(path: Path) -> str | None:
    """The architecture of a GGUF that can be converted, None for one that cannot. Reads metadata only.

    Raises :class:`~shoal.errors.ModelLoadFailed` for a file that is no GGUF.
    """
    reader = _open(path)
    return _convertible(reader, _metadata(reader))


def _convertible(reader: gguf.GGUFReader, metadata: Mapping[str, Any]) -> str | None:
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES or family_of(metadata) is None:
        return None
    # Mixtures of experts and stretched rope are variants that OpenVINO's reader would pass over in silence.
    if metadata.get(f"{architecture}.expert_count", 0) or _stretches_rope(metadata, architecture, reader):
        return None
    return str(architecture)


def convert(source: Path, destination: Path, progress: Progress) -> None:
    """Convert ``source`` into the new folder ``destination``, which appears complete or not at all.

    A folder that another process has put there meanwhile is kept. Raises
    :class:`~shoal.errors.ModelLoadFailed` for a file that cannot be converted.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        _run_child(source, work, progress)
        work.chmod(0o755)  # mkdtemp keeps a folder to its owner
        try:
            work.rename(destination)
        except OSError:
            if not destination.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_child(source: Path, folder: Path, progress: Progress) -> None:
    command = [*COMMAND, str(source), str(folder)]
    last_words: deque[str] = deque(maxlen=5)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        assert child.stdout is not None
        alarm = threading.Timer(DEADLINE, child.kill)
        alarm.start()
        try:
            for text in child.stdout:
                _heed(text, last_words, progress)
            child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            alarm.cancel()
    if child.returncode:
        reason = f"signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
        raise ModelLoadFailed(f"the conversion of {source} ended with {reason}: {' '.join(last_words)}")


def _heed(text: str, last_words: deque[str], progress: Progress) -> None:
    try:
        line: _Line = msgspec.json.decode(text, type=_Stage | _Failed)
    except msgspec.MsgspecError:
        last_words.append(text.strip())
        return
    if isinstance(line, _Failed):
        raise from_info(line.error)
    progress(line.name, line.fraction)


# -- in the child


def main(source: Path, folder: Path) -> None:
    error: ShoalError
    try:
        _convert_here(source, folder)
        return
    except KeyError as exc:
        error = ModelLoadFailed(f"{source} lacks the field {exc}")
    except ShoalError as exc:
        error = exc
    _say(_Failed(error.to_info()))
    raise SystemExit(1)


def _convert_here(source: Path, folder: Path) -> None:
    reader = _open(source)
    metadata = _metadata(reader)
    if _convertible(reader, metadata) is None:
        raise ModelLoadFailed(
            f"{source} is not a model that can be converted: plain {' or '.join(sorted(ARCHITECTURES))} "
            "with a byte-level BPE tokenizer is needed"
        )
    build_tokenizer(metadata).save(str(folder / TOKENIZER_FILE))
    requantised = folder / "q8_0.gguf"
    try:
        _requantise(reader, metadata, requantised)
    except (ValueError, gguf.QuantError) as exc:
        raise ModelLoadFailed(f"the weights of {source} cannot be quantised to Q8_0: {exc}") from exc
    _say(_Stage("build the graph", 0.0))
    _build_graph(requantised)
    requantised.unlink()
    write_card(folder, _card(source, metadata))
    _say(_Stage("build the graph", 1.0))


def _requantise(reader: gguf.GGUFReader, metadata: Mapping[str, Any], path: Path) -> None:
    """Copy a GGUF with its matrices in Q8_0 and its vectors in F32, one tensor in memory at a time."""
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = FILE_TYPE_Q8_0 if key == "general.file_type" else metadata[key]
        kind = field.types[0]
        writer.add_key_value(key, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        target = _target(tensor)
        stored = gguf.quant_shape_to_byte_shape(shape, target) if target == Q8_0 else shape
        size = int(np.prod(stored)) * (1 if target == Q8_0 else 4)
        writer.add_tensor_info(tensor.name, stored, np.dtype(np.uint8 if target == Q8_0 else np.float32), size, target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, tensor in enumerate(reader.tensors, start=1):
        writer.write_tensor_data(_as(tensor, _target(tensor)))
        _say(_Stage("quantise", done / len(reader.tensors)))
    writer.close()


def _target(tensor: gguf.ReaderTensor) -> gguf.GGMLQuantizationType:
    return Q8_0 if len(tensor.shape) > 1 else F32


def _as(tensor: gguf.ReaderTensor, target: gguf.GGMLQuantizationType) -> np.ndarray[Any, Any]:
    if tensor.tensor_type == target:
        return np.asarray(tensor.data)
    return np.asarray(gguf.quantize(gguf.dequantize(tensor.data, tensor.tensor_type), target))


def _build_graph(path: Path) -> None:
    """Write ``openvino_model.xml`` and ``.bin`` beside a GGUF."""
    import openvino_genai  # heavy, and needed by nothing else

    try:
        openvino_genai.LLMPipeline(str(path), "CPU", enable_save_ov_model=True)
    except RuntimeError as exc:
        raise ModelLoadFailed(f"OpenVINO cannot build the model: {exc}") from exc
    for extra in path.parent.glob("openvino_*tokenizer.*"):
        extra.unlink()


def _card(source: Path, metadata: Mapping[str, Any]) -> ModelCard:
    architecture = metadata["general.architecture"]
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ModelCard(
        architecture=architecture,
        context_length=int(metadata[f"{architecture}.context_length"]),
        eos_ids=end_ids(metadata),
        bos_id=metadata.get("tokenizer.ggml.bos_token_id"),
        add_bos=adds_bos(metadata),
        chat_template=metadata.get("tokenizer.chat_template"),
        source_sha256=digest,
        made_with={name: version(name) for name in ("shoal", "gguf", "openvino", "openvino-genai")},
    )


def _open(path: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(path)
    except OSError as exc:
        raise ModelLoadFailed(f"cannot read {path}: {exc.strerror}") from exc
    except (ValueError, IndexError, KeyError) as exc:
        raise ModelLoadFailed(f"{path} is not a GGUF file: {exc}") from exc


def _metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {key: field.contents() for key, field in reader.fields.items()}


def _stretches_rope(metadata: Mapping[str, Any], architecture: str, reader: gguf.GGUFReader) -> bool:
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    return scaling != "none" or any(tensor.name.startswith("rope_freqs") for tensor in reader.tensors)


def _say(line: _Line) -> None:
    print(msgspec.json.encode(line).decode(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
