"""A request's trace and the fleet's metrics, as a collector and Prometheus get them from real processes."""

from __future__ import annotations

import http.server
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from processes import shoal, until_ready
from prometheus_client.parser import text_string_to_metric_families

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Collector:
    """Takes spans as OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []  # service, span
        spans = self.spans

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                for resource in request.resource_spans:
                    service = {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"]
                    spans.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return None

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def trace(self, names: set[str]) -> dict[str, tuple[str, Any]]:
        """The spans of our trace by name, once all of these have come."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = {span.name: (service, span) for service, span in self.spans if span.trace_id.hex() == TRACE}
            if names <= found.keys():
                return found
            time.sleep(0.1)
        raise AssertionError(f"of {names} came {sorted(name for _, span in self.spans for name in [span.name])}")


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def ask(url: str, path: str, body: Any) -> None:
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    request.add_header("traceparent", PARENT)
    with urllib.request.urlopen(request, timeout=60) as answer:
        json.load(answer)


def test_one_trace_goes_through_every_process_and_the_metrics_are_the_workers(collector: Collector) -> None:
    environment = {"SHOAL_TELEMETRY_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    arguments = ("serve", "smollm2", "minilm", "--workers", "1", "--listen-port", "0")
    with shoal(*arguments, environment=environment) as command:
        url = command.wait_for(r"coordinator serves on (http://\S+)")[1]
        until_ready(url, command)
        messages = [{"role": "user", "content": "Name a fish."}]
        ask(url, "/v1/chat/completions", {"model": "smollm2", "messages": messages, "max_tokens": 8, "temperature": 0})
        ask(url, "/v1/embeddings", {"model": "minilm", "input": "a herring"})
        generation = {
            "POST /v1/chat/completions",
            "chat smollm2",
            "run smollm2",
            "prepare",
            "queue",
            "prefill",
            "decode",
        }
        spans = collector.trace(generation | {"POST /v1/embeddings", "infer minilm", "run minilm", "batch"})
        metrics = scraped(url)

    asked = next(name for name in spans if name.startswith("ask worker-"))
    services = {name: service for name, (service, _) in spans.items()}
    assert services["chat smollm2"] == services[asked] == "shoal-coordinator"
    assert services["run smollm2"] == "shoal-worker"
    assert services["decode"] == services["batch"] == "shoal-engine"
    by_id = {span.span_id: name for name, (_, span) in spans.items()}
    assert spans["POST /v1/chat/completions"][1].parent_span_id.hex() == PARENT.split("-")[2]
    assert by_id[spans["chat smollm2"][1].parent_span_id] == "POST /v1/chat/completions"
    assert by_id[spans["decode"][1].parent_span_id] == "run smollm2"
    attributes = {a.key: a.value for a in spans["chat smollm2"][1].attributes}
    assert attributes["gen_ai.usage.output_tokens"].int_value == 8

    assert metrics["shoal_engine_step_tokens_sum", "smollm2"] >= 8
    assert metrics["shoal_batch_rows_count", "minilm"] >= 1
    assert metrics["shoal_time_to_first_token_seconds_count", "smollm2"] == 1
    assert metrics["shoal_worker_state", "ready"] == 1


def scraped(url: str) -> dict[tuple[str, str], float]:
    """Samples by name, and model or state, once the engines have told theirs."""
    deadline = time.monotonic() + 20
    while True:
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        found = {
            (sample.name, sample.labels.get("model") or sample.labels.get("state", "")): sample.value
            for family in families
            for sample in family.samples
        }
        told = found.get(("shoal_batch_rows_count", "minilm"), 0) and found.get(
            ("shoal_engine_step_tokens_sum", "smollm2"), 0
        )
        if told or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
