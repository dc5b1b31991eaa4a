"""Server-sent events as text, where they have a number: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from shoal.coordinator.event_log import Event
from shoal.errors import InvalidRequest

LAST_EVENT_ID = b"last-event-id"
KEEP_ALIVE = b": \n\n"  # a comment: readers skip it, and proxies see that the connection lives
RECONNECT = b"retry: 1000\n\n"  # milliseconds until a reader that was cut off comes back

_ID = re.compile(rb"([0-9A-Za-z-]{1,64}):([0-9]{1,15})")


def write(stream: str, events: Sequence[Event[bytes]]) -> bytes:
    """``stream``: the id of the answer that they belong to, without spaces. Their data have no line breaks."""
    return b"".join(_lines(stream, event) for event in events)


def _lines(stream: str, event: Event[bytes]) -> bytes:
    name = f"event: {event.name}\n" if event.name else ""
    return f"id: {stream}:{event.number}\n{name}data: ".encode() + event.data + b"\n\n"


def data_of(events: bytes) -> Iterable[bytes]:
    """The data of whole events that have nothing else."""
    return (block.removeprefix(b"data: ") for block in events.split(b"\n\n") if block)


def split(last_event_id: bytes) -> tuple[str, int]:
    """The stream and the number that the id of an event names. Raises :class:`InvalidRequest`."""
    found = _ID.fullmatch(last_event_id)
    if found is None:
        raise InvalidRequest("last-event-id is not the id of an event of this server", param="last-event-id")
    return found[1].decode(), int(found[2])


def number_of(last_event_id: bytes | None, stream: str, last: int) -> int:
    """The event that a reader has seen last, of ``last`` there are; 0 for none. Raises :class:`InvalidRequest`."""
    if not last_event_id:
        return 0
    named, number = split(last_event_id)
    if named != stream or number > last:
        raise InvalidRequest("last-event-id is not the id of an event of this stream", param="last-event-id")
    return number
