"""The identity model: what comes in goes out. It measures everything but a model, and needs nothing."""

from __future__ import annotations

from shoal.engines.base import TensorEngine
from shoal.errors import InvalidRequest
from shoal.types import Tensors


class EchoEngine(TensorEngine):
    """Takes ``input`` of any type and shape and returns it, uncopied, as ``output``."""

    inputs = ()  # a specification cannot say "anything"
    outputs = ()
    batchable = False  # any shape: the first axis need not be a batch

    def run(self, inputs: Tensors) -> Tensors:
        if inputs.keys() != {"input"}:
            got = ", ".join(f"'{name}'" for name in inputs) or "nothing"
            raise InvalidRequest(f"echo takes one input named 'input', not {got}", param="input")
        return {"output": inputs["input"]}
