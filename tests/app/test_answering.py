"""What is done in threads beside the batches, such as writing answers: in time, bounded, for who is there."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.routes.common import QUICK
from codec.archive import pack
from codec.encoding import Manner, compress
from codec.model import CodecModel
from tests.app.test_payloads import compressed, decompressed, in_place
from tests.app.test_routes import NPY, npy
from tests.codecs import pictures
from tests.servers import Running, running
from tests.waiting import eventually

LATENTS = npy(np.zeros((20, 4), np.float32))
GREYS = pictures((1, 8, 8), 20)
MANY_GREYS = pictures((1, 8, 8), 1100)


class Held:
    """Holds the calls of a function until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
        self.entered, self.opened = threading.Semaphore(0), threading.Event()
        self.calls = 0
        module, _, name = target.rpartition(".")
        function = getattr(sys.modules[module], name)

        def held(*arguments: Any) -> Any:
            self.calls += 1
            self.entered.release()
            assert self.opened.wait(30)
            return function(*arguments)

        monkeypatch.setattr(target, held)


@dataclass(frozen=True)
class Work:
    """A function that takes long, and a request that needs it."""

    function: str
    ask: Callable[[httpx.Client, CodecModel], httpx.Response]


ADMITTED = {
    "images": Work("app.routes.common.images_answer", lambda client, _: decode(client)),
    "comparison": Work("app.coder.file_bytes", lambda client, _: compare(client)),
    "payload": Work("app.routes.payloads.compressed_answer", lambda client, _: compress_many(client)),
    "archive": Work("app.tasks._opened", lambda client, codec: decompressed(client, archive(codec))),
    "samples": Work("app.negotiation.answers.encode_png", lambda client, _: client.get("/sample")),
    "sheet of samples": Work(
        "app.routes.common.images_answer", lambda client, _: client.get("/sample?format=png")
    ),
    "tensors": Work("app.routes.inference.written", lambda client, _: infer(client)),
    "coded tensors": Work("app.routes.inference.deflated", lambda client, _: infer(client, "gzip")),
}
COPIED = {
    "assembly": Work("app.coder.assembled", lambda client, _: compress_many(client)),
    "decoded images": Work("app.coder.in_place", lambda client, codec: decompressed(client, many(codec))),
}


def decode(client: httpx.Client) -> httpx.Response:
    return client.post("/decode?format=zip", content=LATENTS, headers={"Content-Type": NPY})


def compare(client: httpx.Client) -> httpx.Response:
    return compressed(client, GREYS, compare="true")


def compress_many(client: httpx.Client) -> httpx.Response:
    return compressed(client, MANY_GREYS, effort="fast", format="json")


def archive(codec: CodecModel) -> bytes:
    return pack(list(in_place(GREYS[:1])), ["a"], codec)


def many(codec: CodecModel) -> bytes:
    return compress(MANY_GREYS, codec, Manner("fast"))


def infer(client: httpx.Client, coding: str = "identity") -> httpx.Response:
    count = {"name": "n", "shape": [1], "datatype": "INT64", "data": [300]}
    headers = {"Accept-Encoding": coding}
    return client.post("/v2/models/grey.sample/infer", json={"inputs": [count]}, headers=headers)


@pytest.fixture(scope="module")
def impatient(bundle_folder: Path) -> Iterator[Running]:
    with running(bundle_folder, deadline_seconds=2) as server:
        yield server


@pytest.fixture(scope="module")
def narrow(bundle_folder: Path) -> Iterator[Running]:
    """A server where a byte may wait, or one request."""
    with running(bundle_folder, max_queued_bytes=1) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.routes.common.QUICK_IMAGES", 0)
    monkeypatch.setattr("app.routes.inference.QUICK_RAW_BYTES", 0)


def detail_of(response: httpx.Response) -> str:
    document = response.json()
    detail: str = document.get("detail") or document["error"]
    return detail


@pytest.mark.parametrize("name", [*ADMITTED, *COPIED])
def test_what_takes_longer_than_the_deadline_in_a_thread_is_504(
    impatient: Running, codec: CodecModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    work = {**ADMITTED, **COPIED}[name]
    eventually(lambda: work.ask(impatient.client, codec).status_code == 200)  # and is quick from now on
    held = Held(monkeypatch, work.function)
    response = work.ask(impatient.client, codec)
    held.opened.set()
    assert response.status_code == 504
    assert "the request waited for a thread or in one" in detail_of(response)
    assert held.calls == 1


@pytest.mark.parametrize("name", ADMITTED)
def test_more_than_may_wait_for_a_thread_is_429_with_retry_after(
    narrow: Running, codec: CodecModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    work = ADMITTED[name]
    held = Held(monkeypatch, work.function)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(work.ask, narrow.client, codec)
        assert held.entered.acquire(timeout=30)
        response = work.ask(narrow.client, codec)
        held.opened.set()
        assert first.result().status_code == 200
    assert response.status_code == 429
    assert "would be held; the limit is 1" in detail_of(response)
    assert int(response.headers["retry-after"]) >= 1
    assert held.calls == 1


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("images", "/decode?format=zip", LATENTS),
        ("comparison", "/compress?compare=true", npy(in_place(GREYS))),
    ],
)
def test_nothing_is_done_for_a_client_that_goes_before_its_turn(
    bundle_folder: Path, codec: CodecModel, monkeypatch: pytest.MonkeyPatch, name: str, path: str, body: bytes
) -> None:
    work, route = ADMITTED[name], path.partition("?")[0]
    with running(bundle_folder) as server, ThreadPoolExecutor(1) as pool:
        held = Held(monkeypatch, work.function)
        first = pool.submit(work.ask, server.client, codec)
        assert held.entered.acquire(timeout=30)
        value = server.service.metrics.registry.get_sample_value
        computed = {"model": "grey", "operation": route[1:]}
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {NPY}\r\n"
        with socket.create_connection(
            (server.client.base_url.host, server.client.base_url.port)
        ) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            eventually(lambda: value("vae_images_total", computed) == 40)
        eventually(lambda: value("vae_requests_total", {"route": route, "status": "499"}))
        held.opened.set()
        assert first.result().status_code == 200
        assert value("vae_dropped_requests_total", {"cause": "disconnected"}) == 1
    assert held.calls == 1


@pytest.mark.parametrize(
    ("function", "ask", "images"),
    [
        pytest.param("app.routes.common.images_answer", decode, 20, id="answers"),
        pytest.param(
            "app.negotiation.answers._json", lambda client: client.get("/sample"), 1, id="ends of streams"
        ),
    ],
)
def test_a_body_is_parsed_while_answers_wait_to_be_written(
    bundle_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    ask: Callable[[httpx.Client], httpx.Response],
    images: int,
) -> None:
    count = 33  # more than the threads that asyncio has
    with running(bundle_folder) as server, ThreadPoolExecutor(count) as pool:
        held = Held(monkeypatch, function)
        answers = [pool.submit(ask, server.client) for _ in range(count)]
        value, decoded = (
            server.service.metrics.registry.get_sample_value,
            {"model": "grey", "operation": "decode"},
        )
        eventually(lambda: value("vae_images_total", decoded) == images * count)
        assert held.entered.acquire(timeout=30)
        body, headers = npy(np.zeros((1000, 8, 8), np.uint8)), {"Content-Type": NPY}
        assert len(body) > QUICK.body_bytes
        response = server.client.post("/encode?format=npy", content=body, headers=headers, timeout=10)
        held.opened.set()
        assert response.status_code == 200
        assert {answer.result().status_code for answer in answers} == {200}
