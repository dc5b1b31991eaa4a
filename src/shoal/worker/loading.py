"""From a model's URI to a runtime that answers: the only place that picks an engine."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import msgspec

from shoal.batcher import NO_OBSERVER, BatchLimits, BatchObserver
from shoal.config import ModelConfig
from shoal.engines.base import EngineOptions, LanguageEngine, TensorEngine, Tokenizer
from shoal.engines.chat_template import encode_chat
from shoal.engines.echo import EchoEngine
from shoal.engines.model_folder import RECIPE
from shoal.errors import ModelLoadFailed
from shoal.messages import LoadModel, ModelInfo
from shoal.model_registry import Engine, ModelSpec, Source, make_spec
from shoal.model_store import find, no_progress, pull, pull_source
from shoal.preproc import read_step
from shoal.preproc.pool import StepPool
from shoal.preproc.process import ChildStepProcess
from shoal.telemetry.engine_metrics import EngineMetrics
from shoal.types import ChatPrompt, ModelId, ModelKind, ModelState, Prompt, TensorSpec, TextPrompt, TokenId
from shoal.worker.generation import GenerationLoop
from shoal.worker.generation.progress import StepObserver
from shoal.worker.pipeline import StepPipeline, TensorParts, TensorPipeline
from shoal.worker.runtime import LanguageRuntime, ModelRuntime, TensorRuntime

#: What a model makes use of at a time, beyond which requests are better kept where they can still go elsewhere, or be
#: overtaken by those of others: a batch that runs and one that gathers; where each runs alone, enough to hide the way
#: to the worker; of generations, some that are ready when one ends.
RUNS_AT_ONCE = 2
SINGLES_AT_ONCE = 8
READY_SHARE = 0.25

OnUnhealthy = Callable[[str], None]  # called once, with the reason, when an engine cannot be used any more


async def load_model(command: LoadModel, on_unhealthy: OnUnhealthy, metrics: EngineMetrics) -> ModelRuntime:
    """Load a model in this process. Raises :class:`ModelLoadFailed` that says what is missing."""
    spec = make_spec(str(ModelId(command.name, command.version)), msgspec.convert(command.settings, ModelConfig))
    options = EngineOptions(command.threads, command.kv_tokens, command.max_sequences, command.shard)
    cache = Path(command.cache_dir)
    try:
        if spec.kind is ModelKind.GENERATE:
            if spec.settings.preproc or spec.settings.postproc:
                raise ModelLoadFailed(f"model '{spec.name}' generates text; preproc and postproc are for tensors")
            engine = await asyncio.to_thread(language_engine, spec, cache, options)
            return language_runtime(spec, engine, on_unhealthy, metrics)
        parts = await asyncio.to_thread(tensor_parts, spec, cache, options)
        if command.step_processes and parts.has_steps:
            return await stepped_runtime(spec, parts, command.step_processes, on_unhealthy, metrics)
        return tensor_runtime(spec, await asyncio.to_thread(parts.join), on_unhealthy, metrics)
    except ImportError as error:
        raise ModelLoadFailed(
            f"model '{spec.name}' needs the package {error.name}: install Shoal with the extra of its engine"
        ) from error


def language_runtime(
    spec: ModelSpec, engine: LanguageEngine, on_unhealthy: OnUnhealthy, observer: StepObserver
) -> LanguageRuntime:
    info = ModelInfo(
        name=spec.name,
        kind=ModelKind.GENERATE,
        state=ModelState.READY,
        version=spec.version,
        context_length=engine.capabilities.context_length,
        at_once=math.ceil(engine.capabilities.max_sequences * (1 + READY_SHARE)),
    )
    loop = GenerationLoop(
        engine,
        encode_prompt=lambda prompt: encode(engine.tokenizer, prompt),
        on_unhealthy=on_unhealthy,
        observer=observer,
    )
    return LanguageRuntime(info, loop)


def tensor_runtime(
    spec: ModelSpec,
    pipeline: TensorPipeline,
    on_unhealthy: OnUnhealthy = lambda reason: None,
    observer: BatchObserver = NO_OBSERVER,
    *,
    instant: bool = False,
) -> TensorRuntime:
    info = _tensor_info(spec, pipeline, pipeline.inputs, pipeline.outputs)
    return TensorRuntime(
        info,
        pipeline,
        _limits(spec),
        buckets=spec.settings.batching.buckets,
        observer=observer,
        instant=instant,
        on_unhealthy=on_unhealthy,
    )


async def stepped_runtime(
    spec: ModelSpec, parts: TensorParts, processes: int, on_unhealthy: OnUnhealthy, observer: BatchObserver
) -> TensorRuntime:
    """A tensor model whose steps run in processes of their own."""
    command = parts.steps_command(spec.settings.step_timeout)
    pool = StepPool(
        lambda: ChildStepProcess.start(f"steps of {spec.id}", command), size=processes, timeout=command.timeout
    )
    loaded = await pool.start()
    try:
        steps = StepPipeline(parts.engine, steps=pool, preproc=loaded.preproc, postproc=loaded.postproc)
    except ModelLoadFailed:
        await pool.close()
        raise
    pipeline = TensorPipeline(parts.engine)
    info = _tensor_info(spec, pipeline, steps.inputs, steps.outputs)
    return TensorRuntime(
        info,
        pipeline,
        _limits(spec),
        steps=steps,
        buckets=spec.settings.batching.buckets,
        observer=observer,
        on_unhealthy=on_unhealthy,
    )


def _tensor_info(
    spec: ModelSpec, pipeline: TensorPipeline, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> ModelInfo:
    batchable = pipeline.batchable if spec.settings.batchable is None else spec.settings.batchable
    return ModelInfo(
        name=spec.name,
        kind=ModelKind.TENSOR,
        state=ModelState.READY,
        version=spec.version,
        inputs=inputs,
        outputs=outputs,
        batchable=batchable,
        at_once=RUNS_AT_ONCE * spec.settings.batching.max_rows if batchable else SINGLES_AT_ONCE,
    )


def _limits(spec: ModelSpec) -> BatchLimits:
    batching = spec.settings.batching
    return BatchLimits(batching.max_rows, batching.max_wait, batching.max_queue_rows, batching.target_latency)


def echo_runtime(spec: ModelSpec, shard: int | None = None) -> TensorRuntime:
    """It runs no foreign code, so nothing of it can break or hang, and nothing is batched."""
    runtime = tensor_runtime(spec, TensorPipeline(EchoEngine()), instant=True)
    runtime.info = msgspec.structs.replace(runtime.info, shard=shard, at_once=0)
    return runtime


def encode(tokenizer: Tokenizer, prompt: Prompt) -> list[TokenId]:
    """A prompt's tokens. Only a chat template writes control tokens; text of the user's cannot."""
    match prompt:
        case ChatPrompt():
            return encode_chat(tokenizer, prompt.messages, prompt.tools)
        case TextPrompt():
            return tokenizer.encode(prompt.text, special=False)
        case _:
            return list(prompt.tokens)


def language_engine(spec: ModelSpec, cache: Path, options: EngineOptions) -> LanguageEngine:
    """OpenVINO where it can run the model and is installed, unless the URI says otherwise; else llama.cpp."""
    if spec.source is Source.OPENAI:
        raise ModelLoadFailed(f"model '{spec.name}': upstream servers are not supported in this version")
    if spec.source is Source.PYTHON:
        from shoal.engines.python import construct_language_engine

        return construct_language_engine(spec.target, options)
    if _wants_openvino(spec):
        from shoal.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(_openvino_folder(spec, cache), options)
    from shoal.engines.llama import LlamaEngine

    return LlamaEngine(_gguf(spec, cache), options)


def tensor_parts(spec: ModelSpec, cache: Path, options: EngineOptions) -> TensorParts:
    preproc = tuple(map(read_step, spec.settings.preproc))
    postproc = tuple(map(read_step, spec.settings.postproc))
    if spec.source is Source.BUILT_IN and spec.target == Engine.ECHO:
        return TensorParts(EchoEngine(), None, preproc, postproc)
    if spec.source is Source.BUILT_IN:
        entry, folder = find(spec.target), pull(spec.target, cache, no_progress)
        engine = _onnx_engine(spec, folder / "model.onnx", options)
        return TensorParts(engine, folder, preproc or entry.preproc, postproc or entry.postproc)
    if spec.source is Source.PYTHON:
        from shoal.engines.python import PythonEngine

        return TensorParts(PythonEngine(spec.target, options), None, preproc, postproc)
    path = _existing(spec)
    return TensorParts(_onnx_engine(spec, path, options), path.parent, preproc, postproc)


def _onnx_engine(spec: ModelSpec, path: Path, options: EngineOptions) -> TensorEngine:
    """ONNX Runtime, unless the URI says otherwise: it is nearer to the numbers the model was made with."""
    if spec.engine is Engine.OPENVINO:
        from shoal.engines.openvino_tensors import OpenVINOTensorEngine

        return OpenVINOTensorEngine(path, options)
    from shoal.engines.onnx import OnnxEngine

    return OnnxEngine(path, options)


def _wants_openvino(spec: ModelSpec) -> bool:
    if spec.engine is not Engine.AUTO:
        return spec.engine is Engine.OPENVINO
    if importlib.util.find_spec("openvino") is None:
        return False
    if spec.source is Source.BUILT_IN:
        return True
    from shoal.model_store.convert_gguf import supported_architecture

    return supported_architecture(_existing(spec)) is not None


def _openvino_folder(spec: ModelSpec, cache: Path) -> Path:
    """The converted model; it is converted now if it has not been yet."""
    if spec.source is Source.BUILT_IN:
        return pull(spec.target, cache, no_progress)
    from shoal.model_store.convert_gguf import convert

    source = _existing(spec)
    status = source.stat()
    identity = f"{source.resolve()} {status.st_size} {status.st_mtime_ns} {RECIPE}"
    folder = cache / "converted" / f"{source.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        convert(source, folder, lambda _stage, _fraction: None)
    return folder


def _gguf(spec: ModelSpec, cache: Path) -> Path:
    if spec.source is not Source.BUILT_IN:
        return _existing(spec)
    folder = pull_source(spec.target, cache, no_progress)
    return next(folder.glob("*.gguf"))


def _existing(spec: ModelSpec) -> Path:
    path = Path(spec.target).expanduser()
    if not path.is_file():
        raise ModelLoadFailed(f"model '{spec.name}': there is no file {path}")
    return path
