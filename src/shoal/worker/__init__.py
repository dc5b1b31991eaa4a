"""Loads models and runs them: registration and state, engine processes, pipelines, continuous batching."""
