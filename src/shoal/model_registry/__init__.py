"""Which models there are, under which names, and what is known of each before it is loaded."""

from shoal.model_registry.arguments import (
    BUILT_IN,
    DEFAULT_ALIAS,
    classify,
    make_spec,
    parse_model_argument,
    parse_model_id,
)
from shoal.model_registry.registry import MAX_MODELS, Registry, Weights
from shoal.model_registry.spec import Engine, ModelSpec, Source

__all__ = [
    "BUILT_IN",
    "DEFAULT_ALIAS",
    "MAX_MODELS",
    "Engine",
    "ModelSpec",
    "Registry",
    "Source",
    "Weights",
    "classify",
    "make_spec",
    "parse_model_argument",
    "parse_model_id",
]
