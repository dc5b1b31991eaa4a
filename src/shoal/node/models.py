"""The models that the command line and the configuration file name."""

from __future__ import annotations

from shoal.config import Config
from shoal.model_registry import ModelSpec, Weights, make_spec, parse_model_argument


def configured_models(config: Config) -> list[ModelSpec]:
    """Raises :class:`ConfigError` for one that cannot be understood."""
    named = [parse_model_argument(argument) for argument in config.worker.models]
    return named + [make_spec(model_id, settings) for model_id, settings in config.models.items()]


def configured_aliases(config: Config) -> dict[str, Weights]:
    return {alias: {targets: 1} if isinstance(targets, str) else targets for alias, targets in config.aliases.items()}
