"""Spans of a real process, as a collector of OpenTelemetry's protocol receives them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.app.test_logs import ROOT, TRACE, served

PARENT = "b7ad6b7169203331"


class Collector:
    """What listens for spans."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []  # with the name of their service
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, exported: ExportTraceServiceRequest) -> None:
        for resource in exported.resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scoped in resource.scope_spans:
                self.spans.extend((named["service.name"], span) for span in scoped.spans)

    def of(self, name: str) -> list[Span]:
        return [span for _, span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    thread = Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def attributes(span: Span) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        assert kind is not None
        found[each.key] = getattr(each.value, kind)
    return found


@pytest.mark.slow
def test_a_request_is_a_span_of_its_caller_s_trace_and_what_it_computes_one_within(
    bundle_folder: Path, tmp_path: Path, collector: Collector
) -> None:
    variables = {
        "VAE_TRACING": "true",
        "VAE_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_SERVICE_NAME": "vaeserve-test",
    }
    with served(bundle_folder / "grey", tmp_path / "log", **variables) as client:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answers = [client.get("/sample?n=20&seed=1", headers=headers) for _ in range(2)]
        assert client.get("/sample?n=0", headers=headers).status_code == 422
    assert '"level": "ERROR"' not in (tmp_path / "log").read_text()
    requests = [span for span in collector.of("GET /sample") if span.trace_id.hex() == TRACE]
    assert len(requests) == 3
    assert {span.parent_span_id.hex() for span in requests} == {PARENT}
    assert {name for name, _ in collector.spans} == {"vaeserve-test"}
    statuses = [attributes(span)["http.response.status_code"] for span in requests]
    assert statuses == [200, 200, 422]
    computed = collector.of("vaeserve.sample")
    assert [span.parent_span_id for span in computed] == [span.span_id for span in requests[:2]]
    for span, request, answer in zip(computed, requests, answers, strict=False):
        found = attributes(span)
        assert (found["vaeserve.model"], found["vaeserve.images"]) == ("grey", 20)
        assert float(found["vaeserve.compute_seconds"]) > 0
        assert answer.headers["traceresponse"] == f"00-{TRACE}-{request.span_id.hex()}-01"


def test_tracing_needs_a_place_for_the_spans() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-m", "app"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, "VAE_TRACING": "true"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: VAE_TRACING needs OTEL_EXPORTER_OTLP_ENDPOINT: where the spans go\n"
