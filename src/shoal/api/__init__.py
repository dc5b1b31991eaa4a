"""HTTP only, no rules: surfaces translate, the coordinator's data plane decides."""

from shoal.api.app import build_app

__all__ = ["build_app"]
