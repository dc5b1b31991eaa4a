"""From a folder's graph to a compiled one that computes ragged batches over block tables.

The graph is rewritten twice: attention finds keys and values through block tables, in memory that is ours; and only
the tokens whose logits somebody wants reach the LM head, which in a small model costs as much as many layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal.engines.openvino_batch import SAMPLED
from shoal.errors import ModelLoadFailed

#: The paged-attention transformation is private to OpenVINO and changes between releases.
OPENVINO_VERSION = "2026.4.1"


def require_version(found: str) -> None:
    if found.partition("-")[0] != OPENVINO_VERSION:
        raise ModelLoadFailed(f"the OpenVINO engine needs openvino {OPENVINO_VERSION}; found {found}")


try:
    import openvino as ov
    from openvino import opset13 as ops
    from openvino._offline_transformations import paged_attention_transformation

    from shoal.engines.openvino_cpu import cpu_settings
except ImportError as error:
    raise ModelLoadFailed(f"the OpenVINO engine needs openvino {OPENVINO_VERSION}: {error}") from error

require_version(ov.__version__)


@dataclass(frozen=True, slots=True)
class KvMemory:
    """The tensors of all layers, each of shape (blocks, heads, block_size, head_size).

    What nothing was written to yet is garbage; attention looks at no position that its sequence does not have.
    """

    tensors: tuple[ov.Tensor, ...]
    block_size: int  # tokens
    num_blocks: int


def compile_paged(path: Path, threads: int) -> ov.CompiledModel:
    """Read, rewrite and compile the graph at ``path``.

    Computes in bf16 where the CPU has instructions for it, else in f32, and always on as many threads as said.
    Graphs with F16 weights in bf16 on one thread crash this OpenVINO on some CPUs: ours hold Q8_0.
    Raises :class:`~shoal.errors.ModelLoadFailed`.
    """
    core = ov.Core()
    config = cpu_settings(core, threads)
    config |= {
        "KV_CACHE_PRECISION": "f16",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32" if config["INFERENCE_PRECISION_HINT"] == "bf16" else "0",
    }
    try:
        model = core.read_model(path)
        paged_attention_transformation(model)
        _sample_before_head(model)
        return core.compile_model(model, "CPU", config)
    except RuntimeError as exc:
        raise ModelLoadFailed(f"OpenVINO cannot load {path}: {exc}") from exc


def _sample_before_head(model: ov.Model) -> None:
    """Put a Gather with an input of its own, ``SAMPLED``, between the last layer and the LM head."""
    node = model.get_results()[0].input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        if not node.get_input_size():
            raise ModelLoadFailed("the graph has no LM head: no MatMul leads to its output")
        node = node.input_value(0).get_node()
    sampled = ops.parameter([-1], np.int64, name=SAMPLED)
    sampled.output(0).set_names({SAMPLED})
    rows = ops.gather(node.input_value(0), sampled, ops.constant(0, dtype=np.int64))
    node.input(0).replace_source_output(rows.output(0))
    model.add_parameters([sampled])
    model.validate_nodes_and_infer_types()


def attach_kv(compiled: ov.CompiledModel, request: ov.InferRequest, *, tokens: int, spare: int) -> KvMemory:
    """Give a request KV memory for ``tokens`` and for ``spare`` blocks more, which are not counted.

    Raises :class:`~shoal.errors.ModelLoadFailed` where there is not that much memory.
    """
    ports = [port for port in compiled.inputs if "_cache." in port.any_name]
    block_size = ports[0].partial_shape[2].get_length()
    num_blocks = -(-tokens // block_size)
    tensors = []
    for port in ports:
        _, *rest = port.partial_shape
        shape = ov.Shape([num_blocks + spare, *(size.get_length() for size in rest)])
        try:
            tensor = ov.Tensor(port.element_type, shape)
        except (RuntimeError, MemoryError) as exc:
            raise ModelLoadFailed(f"there is no memory for the KV of {tokens} tokens: {exc}") from exc
        request.set_tensor(port.any_name, tensor)
        tensors.append(tensor)
    return KvMemory(tuple(tensors), block_size, num_blocks)
