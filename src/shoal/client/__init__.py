"""Clients that speak the native protocol to a coordinator: :class:`AsyncClient`, and :class:`Client` without async.

They use the same port as HTTP. A native call costs less than an HTTP one and carries tensors without a copy.
"""

from shoal.client.asynchronous import DEFAULT_ADDRESS, AsyncClient, Completion, as_prompt
from shoal.client.blocking import Client

__all__ = ["DEFAULT_ADDRESS", "AsyncClient", "Client", "Completion", "as_prompt"]
