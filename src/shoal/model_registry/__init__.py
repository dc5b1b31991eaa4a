"""Which models there are, under which names, and what is known of each before it is loaded."""

from shoal.model_registry.arguments import (
    BUILT_IN,
    DEFAULT_ALIAS,
    classify,
    make_spec,
    parse_model_argument,
    parse_model_id,
)
from shoal.model_registry.records import Records, changes, records, restored
from shoal.model_registry.registry import MAX_MODELS, Registry
from shoal.model_registry.schema import check_inputs, check_outputs, datatype, is_tensors
from shoal.model_registry.spec import Engine, ModelSpec, Placement, Source
from shoal.model_registry.weights import Weights

__all__ = [
    "BUILT_IN",
    "DEFAULT_ALIAS",
    "MAX_MODELS",
    "Engine",
    "ModelSpec",
    "Placement",
    "Records",
    "Registry",
    "Source",
    "Weights",
    "changes",
    "check_inputs",
    "check_outputs",
    "classify",
    "datatype",
    "is_tensors",
    "make_spec",
    "parse_model_argument",
    "parse_model_id",
    "records",
    "restored",
]
