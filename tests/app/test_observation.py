"""What is noted of every request: status and time, its id, and a line of the log where that is asked for."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.metrics import Metrics
from app.observation import ObservedRequests
from tests.app.test_routes import problem
from tests.servers import running

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}


async def receive() -> Message:
    return {"type": "http.request"}


@pytest.mark.anyio
async def test_requests_that_fail_before_their_answer_count_as_500() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError

    async def send(message: Message) -> None: ...

    metrics = Metrics()
    with pytest.raises(RuntimeError):
        await ObservedRequests(broken, metrics)(dict(SCOPE), receive, send)
    assert metrics.registry.get_sample_value("vae_requests_total", {"route": "other", "status": "500"}) == 1


@pytest.mark.anyio
async def test_an_answer_that_the_end_of_the_grace_period_cuts_off_is_not_begun_again() -> None:
    sent: list[Message] = []

    async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(asyncio.CancelledError):
        await ObservedRequests(cut_off, Metrics())(dict(SCOPE), receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]


@pytest.mark.parametrize("path", ["/health/live", "/sample?n=1", "/nope", "/v2", "/encode"])
def test_every_answer_has_an_id(client: httpx.Client, path: str) -> None:
    ids = {client.get(path).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{16}", id) for id in ids)


def test_an_id_that_is_given_is_kept(client: httpx.Client) -> None:
    response = client.get("/health/live", headers={"X-Request-Id": "order-17/3"})
    assert response.headers["x-request-id"] == "order-17/3"


@pytest.mark.parametrize("given", ["two words", "x" * 129, "é"])
def test_an_id_that_a_log_could_not_carry_is_not(client: httpx.Client, given: str) -> None:
    response = client.get("/health/live", headers={"X-Request-Id": given.encode()})
    assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])


def test_the_answer_names_its_span_in_the_caller_s_trace(client: httpx.Client) -> None:
    answers = [client.get("/health/live", headers={"traceparent": TRACEPARENT}) for _ in range(2)]
    found = [answer.headers["traceresponse"] for answer in answers]
    assert all(re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", each) for each in found)
    assert len({*found, TRACEPARENT}) == 3


@pytest.mark.parametrize("given", [None, "nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01"])
def test_without_a_trace_there_is_no_span(client: httpx.Client, given: str | None) -> None:
    headers = {} if given is None else {"traceparent": given}
    assert "traceresponse" not in client.get("/health/live", headers=headers).headers


def test_an_answer_to_an_unexpected_error_has_the_id_too(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    with running(bundle_folder) as server:
        monkeypatch.setattr(server.service, "compute", broken)
        response = server.client.get("/sample", headers={"X-Request-Id": "7"})
    problem(response, 500, "internal")
    assert response.headers.get_list("x-request-id") == ["7"]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.name == "vaeserve.access"]


def test_a_line_a_request(bundle_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vaeserve.access"), running(bundle_folder, access_log=True) as server:
        server.client.get("/sample?n=2&seed=1&format=npy")
        server.client.get("/nope")
        server.client.post("/v2/models/grey.sample/infer", content=b"{")
    found = {line["path"]: line for line in lines(caplog)}
    names = ("/health/ready", "/sample", "/nope", "/v2/models/grey.sample/infer")
    ready, sampled, lost, inferred = (found[name] for name in names)
    assert ready["route"] == "/health/ready"
    assert (sampled["method"], sampled["path"], sampled["route"]) == ("GET", "/sample", "/sample")
    assert (sampled["status"], sampled["request_bytes"], sampled["response_bytes"]) == (200, 0, 128 + 2 * 64)
    assert sampled["client"] == "127.0.0.1"
    assert sampled["duration_ms"] >= sampled["queue_ms"] + sampled["compute_ms"] > 0
    assert (lost["route"], lost["status"]) == ("other", 404)
    assert "compute_ms" not in lost
    assert (inferred["route"], inferred["request_bytes"]) == ("/v2/models/{name}/infer", 1)
    assert sampled["message"].startswith("127.0.0.1 GET /sample 200 ")


def test_a_path_begins_no_line_of_its_own(bundle_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vaeserve.access"), running(bundle_folder, access_log=True) as server:
        server.client.get("/x%0AERROR:%1B[2J")
    (found,) = (line for line in lines(caplog) if line["status"] == 404)
    assert " GET /x%0AERROR%3A%1B%5B2J 404 " in found["message"]


def test_no_line_unless_asked_for(bundle_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vaeserve.access"), running(bundle_folder) as server:
        server.client.get("/sample")
    assert lines(caplog) == []
