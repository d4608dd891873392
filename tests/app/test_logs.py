"""Logs of a real process: text or JSON, with what names the request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.serving.processes import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
TRACE = "0af7651916cd43dd8448eb211c80319c"


@contextmanager
def served(models: Path, log: Path, **variables: str) -> Iterator[httpx.Client]:
    """Run the service, its standard error in a file, until the block is left."""
    port = free_port()
    settings = {"VAE_MODELS": str(models), "VAE_PORT": str(port), "VAE_DEVICE": "cpu", **variables}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"], cwd=ROOT, env={**os.environ, **settings}, stderr=file
        )
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            try:
                eventually(lambda: is_ready(client) or process.poll() is not None)
                yield client
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def records(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("frontends", ["1", "2"])
def test_json_is_an_object_a_line_with_the_request_s_names(
    bundle_folder: Path, tmp_path: Path, frontends: str
) -> None:
    log = tmp_path / "log"
    variables = {"VAE_LOG_FORMAT": "json", "VAE_ACCESS_LOG": "true", "VAE_FRONTENDS": frontends}
    with served(bundle_folder / "grey", log, **variables) as client:
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-Id": "order-17"}
        answer = client.get("/sample?n=2", headers=headers)
    found = records(log)
    (line,) = (record for record in found if record.get("request_id") == "order-17")
    assert line["level"] == "INFO"
    assert line["logger"] == "vaeserve.access"
    assert (line["route"], line["status"]) == ("/sample", 200)
    assert line["trace_id"] == TRACE
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{line['span_id']}-01"
    assert line["timestamp"].endswith("+00:00")
    assert any(record["message"].startswith("ready in ") for record in found)
    assert any(record["logger"].startswith("uvicorn") for record in found)


@pytest.mark.slow
def test_text_is_a_line_a_record(bundle_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with served(bundle_folder / "grey", log, VAE_ACCESS_LOG="true") as client:
        client.get("/nope")
    text = log.read_text()
    assert "INFO:     127.0.0.1 GET /nope 404 " in text
    assert "INFO:     ready in " in text
