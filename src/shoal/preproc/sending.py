"""What foreign code has made on its way out of its process."""

from __future__ import annotations

from shoal.errors import EngineFailed, InvalidRequest, PayloadTooLarge
from shoal.messages import Answer
from shoal.rpc import Call


async def send_made(call: Call, answer: Answer) -> None:
    """Raises what sending raises; but an answer that cannot travel whoever asked is :class:`EngineFailed`."""
    try:
        await call.send(answer)
    except PayloadTooLarge:
        raise  # of a smaller request it may fit
    except InvalidRequest as error:
        raise EngineFailed(f"what was computed cannot be sent: {error.message}") from error
