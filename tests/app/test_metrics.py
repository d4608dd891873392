"""What is counted, asked of a running server; tests/deploy asks whether Prometheus understands it."""

from __future__ import annotations

import importlib.metadata
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from app.metrics import Metrics
from codec.model import CodecModel
from codec.payload import parsed
from models.bundle import Bundle
from tests.app.test_payloads import GREY, compressed, noise
from tests.app.test_routes import NPY, npy
from tests.app.test_server import gate, posted  # noqa: F401
from tests.codecs import pictures
from tests.servers import Gate, Running, running
from tests.waiting import eventually


def value(server: Running, name: str, **labels: str) -> float:
    return server.service.metrics.registry.get_sample_value(name, labels) or 0.0


def test_the_bytes_of_bodies_are_counted_by_route(client: httpx.Client, live: Running) -> None:
    def counted() -> np.ndarray:
        names = "vae_request_bytes_total", "vae_response_bytes_total"
        return np.array([value(live, name, route="/score") for name in names])

    before = counted()
    body = npy(np.zeros((2, 8, 8), np.uint8))
    answer = client.post("/score", content=body, headers={"Content-Type": NPY})
    eventually(lambda: list(counted() - before) == [len(body), len(answer.content)])


def test_every_part_of_a_long_answer_is_counted(client: httpx.Client, live: Running) -> None:
    def counted() -> float:
        return value(live, "vae_response_bytes_total", route="/sample")

    before = counted()
    answer = client.get("/sample?n=100&format=npy")
    # Its end is noted once the last of it is sent.
    eventually(lambda: counted() - before == len(answer.content))


def test_requests_in_flight_are_those_not_answered(bundle_folder: Path, gate: Gate) -> None:  # noqa: F811
    with running(bundle_folder) as server:
        with posted(server):
            assert gate.entered.acquire(timeout=30)
            assert "vae_requests_in_flight 2.0" in server.client.get("/metrics").text  # it is one of them
            gate.opened.set()
        eventually(lambda: "vae_requests_in_flight 1.0" in server.client.get("/metrics").text)


def test_what_a_route_may_answer_is_there_from_the_start(bundle_folder: Path) -> None:
    with running(bundle_folder) as server:
        paths = server.client.get("/openapi.json").json()["paths"]
        asked = {"/health/ready", "/metrics"}
        figures = server.client.get("/metrics").text
    for route in paths.keys() - asked:
        for operation in paths[route].values():
            for status in operation["responses"]:
                counted = "other" if status in ("401", "421") else route  # answered before it is looked for
                assert f'vae_requests_total{{route="{counted}",status="{status}"}} 0.0' in figures
    for cause in ("overloaded", "deadline", "disconnected", "fault"):
        assert f'vae_dropped_requests_total{{cause="{cause}"}} 0.0' in figures


def test_what_the_bundles_may_compute_is_there_once_they_are_loaded(bundle_folder: Path) -> None:
    with running(bundle_folder) as server:
        figures = server.client.get("/metrics").text
    assert set(re.findall(r'vae_images_total{model="(\S+)",operation="(\S+)"} 0.0', figures)) == {
        *(
            (model, name)
            for model in ("grey", "colour")
            for name in ("encode", "decode", "reconstruct", "score")
        ),
        # The colour one has no codec.
        *(
            (model, name)
            for model in ("grey", "classical")
            for name in ("compress", "compress-fast", "decompress")
        ),
    }
    for model in ("grey", "colour"):
        for codec in ("learned", "classical"):
            for mode in ("best", "fast", "max_error", "quality", "target_bytes"):
                labels = f'codec="{codec}",mode="{mode}",model="{model}"'
                assert f"vae_original_bytes_total{{{labels}}} 0.0" in figures
                assert f"vae_compressed_bytes_total{{{labels}}} 0.0" in figures


@pytest.mark.parametrize(
    ("mode", "query"),
    [
        ("best", {}),
        ("fast", {"effort": "fast"}),
        ("max_error", {"max_error": "3", "effort": "fast"}),
        ("quality", {"quality": "30"}),
        ("target_bytes", {"target_bytes": "400"}),
    ],
)
def test_bytes_before_and_after_compression_are_counted_by_model_and_mode(
    client: httpx.Client, live: Running, codec: CodecModel, mode: str, query: dict[str, str]
) -> None:
    def counted() -> np.ndarray:
        names = "vae_original_bytes_total", "vae_compressed_bytes_total"
        return np.array([value(live, name, model="grey", codec="learned", mode=mode) for name in names])

    before, images = counted(), pictures(GREY, 20)
    payload = compressed(client, images, **query).content
    assert parsed(payload, lambda _: codec).model is codec
    assert list(counted() - before) == [images.nbytes, len(payload)]


def test_what_the_model_does_not_know_is_counted_as_classical(client: httpx.Client, live: Running) -> None:
    def counted() -> float:
        return value(live, "vae_original_bytes_total", model="grey", codec="classical", mode="best")

    before, images = counted(), noise(2, 3, 5, 7)
    compressed(client, images)
    assert counted() - before == images.nbytes


def test_what_is_loaded_and_where_is_told(client: httpx.Client, grey: Bundle, colour: Bundle) -> None:
    figures = client.get("/metrics").text
    for bundle in (grey, colour):
        labels = f'device="cpu",digest="sha256:{bundle.digest}",model="{bundle.id}",precision="float32"'
        assert f"vae_model_info{{{labels}}} 1.0" in figures
    versions = f'torch="{torch.__version__}",version="{importlib.metadata.version("vaeserve")}"'
    assert f"{versions}}} 1.0" in figures
    loaded = re.search(r"^vae_load_duration_seconds (\S+)$", figures, re.MULTILINE)
    assert loaded
    assert float(loaded[1]) > 0


def test_a_process_alone_tells_of_itself(client: httpx.Client) -> None:
    figures = client.get("/metrics").text
    resident = re.search(r'^process_resident_memory_bytes{process="service"} (\S+)$', figures, re.MULTILINE)
    assert resident
    assert float(resident[1]) > 1 << 26  # torch is in it
    assert 'vae_process_restarts_total{process="service"} 0.0' in figures


def test_a_cpu_has_no_memory_of_its_own(client: httpx.Client) -> None:
    assert "\nvae_device_memory" not in client.get("/metrics").text


def test_a_scrape_keeps_no_request_waiting(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def exposition(_: Metrics) -> bytes:
        asked.set()
        assert may_answer.wait(30)
        return b""

    monkeypatch.setattr(Metrics, "exposition", exposition)
    with running(bundle_folder) as server, ThreadPoolExecutor(1) as pool:
        scrape = pool.submit(server.client.get, "/metrics")
        assert asked.wait(30)
        assert server.client.get("/health/ready").status_code == 200
        may_answer.set()
        assert scrape.result().status_code == 200
