"""What all processes tell of their requests in spans: who collects them, and what follows from them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

DELAY = 0.5  # seconds after which a process sends what it has

#: Where the pause of an answer goes, in this order.
STAGES = ("noticed", "sent again", "on its way", "waits for a place", "computed again", "on its way back")


@dataclass(frozen=True, slots=True)
class Span:
    """Times are in seconds since 1970."""

    name: str
    began: float
    ended: float


class Collector:
    """Speaks as much of OTLP as Shoal does."""

    def __init__(self) -> None:
        self._spans: defaultdict[str, list[Span]] = defaultdict(list)
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._take(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (as it is inherited)
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def of(self, trace: str) -> Sequence[Span]:
        """By the hexadecimal digits of a trace's id."""
        return list(self._spans[trace])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    made = Span(span.name, span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9)
                    self._spans[span.trace_id.hex()].append(made)


@dataclass(frozen=True, slots=True)
class Pause:
    """Of one answer that was taken up in its middle."""

    seconds: float
    said: int  # tokens that its client had by then
    stages: Mapping[str, float]  # seconds


def pause_of(spans: Sequence[Span], parts: Sequence[tuple[float, int]], struck: float) -> Pause | None:
    """None for an answer that no other worker took up in its middle, or of which too little is known.

    ``parts``: when each came to the client, and how many tokens it had then. ``struck``: until then all was well.
    """
    asked = sorted((span for span in spans if span.name.startswith("ask ")), key=lambda span: span.began)
    lost = next((span for span in asked[:-1] if span.ended >= struck), None)
    if lost is None:
        return None
    again = asked[-1]
    engine = {span.name: span for span in spans if span.began >= again.began}
    if not {"queue", "prefill"} <= engine.keys():
        return None
    spoke = engine["prefill"].ended
    gaps = [(after[0] - before[0], before, after) for before, after in pairwise(parts)]
    around = [gap for gap in gaps if gap[1][0] <= spoke and gap[2][0] >= lost.ended]
    if not around:
        return None
    seconds, (paused, said), (resumed, _) = max(around)
    times = (
        max(struck, paused),
        lost.ended,
        again.began,
        engine["queue"].began,
        engine["prefill"].began,
        spoke,
        resumed,
    )
    lengths = (max(0.0, after - before) for before, after in pairwise(times))
    return Pause(seconds, said, dict(zip(STAGES, lengths, strict=True)))
