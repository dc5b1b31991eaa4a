"""The models that the command line and the configuration file name."""

from __future__ import annotations

import msgspec

from shoal.config import Config, ModelConfig
from shoal.model_registry import ModelSpec, parse_model_argument
from shoal.types import ModelName


def configured_models(config: Config) -> list[ModelSpec]:
    """Raises :class:`ConfigError` for one that cannot be understood."""
    named = [parse_model_argument(argument) for argument in config.worker.models]
    return named + [_from_file(name, model) for name, model in config.models.items()]


def _from_file(name: str, model: ModelConfig) -> ModelSpec:
    spec = parse_model_argument(f"{name}={model.uri}")
    return msgspec.structs.replace(spec, aliases=tuple(ModelName(alias) for alias in model.aliases))
