"""Services, scraped by a Prometheus with the configuration that is shipped."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ruamel.yaml import YAML

from app.engine import CpuEngine
from app.metrics import DeviceMemory
from models.bundle import SHIPPED
from tests.servers import Running, running
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
NPY, PAYLOAD = "application/x-npy", "application/vnd.vaeserve.payload"
ROOM_BYTES = 4000  # of bodies
DRAWN_SECONDS = 3600  # of the past, by a dashboard


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [tool for tool in ("promtool", "prometheus") if shutil.which(tool) is None]
    for item in items:
        if missing and "prometheus" in item.keywords:
            item.add_marker(
                pytest.mark.skip(reason=f"no {' and no '.join(missing)} here: Debian's package prometheus")
            )


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)


def ask_everything(server: Running) -> None:
    """Have every route answer, in every way of compressing, and make every kind of mistake once."""

    def post(path: str, status: int, content: bytes, kind: str = NPY) -> httpx.Response:
        response = server.client.post(path, content=content, headers={"Content-Type": kind})
        assert response.status_code == status, response.text
        return response

    for path in ("/encode", "/reconstruct", "/score"):
        post(path, 200, npy(IMAGES))
    post("/decode", 200, npy(np.zeros((2, 64), np.float32)))
    ways = ("effort=best", "effort=fast", "max_error=2", "quality=50", "target_bytes=300")
    payloads = [post(f"/compress?format=payload&{way}", 200, npy(IMAGES)).content for way in ways]
    payloads.append(
        post("/compress?format=payload", 200, npy(IMAGES[:, :9])).content
    )  # not the model's shape
    for payload in payloads:
        post("/decompress", 200, payload, PAYLOAD)
    for path in ("/sample?n=3", "/models", "/models/fashion-mnist", "/health/live", "/health/ready"):
        assert server.client.get(path).status_code == 200
    post("/encode", 400, b"no array")
    post("/encode?model=nope", 404, npy(IMAGES))
    post("/encode?format=png", 422, npy(IMAGES))
    post("/encode", 415, b"text", "text/plain")
    post("/encode", 422, npy(IMAGES[:, :9]))
    assert server.client.get("/made/up").status_code == 404
    with half_a_body(server, ROOM_BYTES - 1):
        post("/encode", 429, npy(IMAGES))


@contextmanager
def half_a_body(server: Running, size: int) -> Iterator[None]:
    """Hold the room of a body that does not end; its caller goes without an answer."""
    head = f"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: {NPY}\r\n"
    head += f"Content-Length: {2 * size}\r\n\r\n"
    url = server.client.base_url
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(head.encode() + bytes(size))
        eventually(lambda: server.service.intake.held_bytes == size)
        yield
    eventually(lambda: server.service.intake.held_bytes == 0)


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs."""

    client: httpx.Client

    def get(self, path: str, **parameters: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the series of an expression now: labels and value."""
        found = self.get("query", query=expression)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def query_range(self, expression: str) -> list[tuple[dict[str, str], list[float]]]:
        """Return the series of an expression over what a dashboard draws: labels and values."""
        now = time.time()
        found = self.get(
            "query_range", query=expression, start=str(now - DRAWN_SECONDS), end=str(now), step="1"
        )
        return [
            (series["metric"], [float(value) for _, value in series["values"]]) for series in found["result"]
        ]

    def is_ready(self) -> bool:
        try:
            return self.client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False


def instance_of(server: Running) -> str:
    """Return what Prometheus calls an instance."""
    return server.url.removeprefix("http://")


@contextmanager
def prometheus_of(folder: Path, *servers: Running) -> Iterator[Prometheus]:
    """Start Prometheus by the shipped configuration, with the servers for targets and no time to lose."""
    yaml = YAML()
    rules = yaml.load(DEPLOY / "prometheus" / "alerts.yml")
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
    yaml.dump(rules, folder / "alerts.yml")
    config = yaml.load(DEPLOY / "prometheus" / "prometheus.yml")
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "200ms")
    config["scrape_configs"][0]["static_configs"][0]["targets"] = list(map(instance_of, servers))
    yaml.dump(config, folder / "prometheus.yml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": address,
        "log.level": "error",
    }
    process = subprocess.Popen(["prometheus", *(f"--{name}={value}" for name, value in options.items())])
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            prometheus = Prometheus(client)
            eventually(prometheus.is_ready)
            yield prometheus
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Have a service scraped before and after it is asked everything."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            # The one part that is not real: there is no GPU. What was seen at the start stays.
            patch.setattr(CpuEngine, "memory", lambda engine: DeviceMemory("cuda:0", 4, 3, 2, 1))
            service = running(SHIPPED, models=("fashion-mnist",), max_queued_bytes=ROOM_BYTES)
            server = stack.enter_context(service)
        found = stack.enter_context(prometheus_of(tmp_path_factory.mktemp("prometheus"), server))
        # The first scrape has every counter at zero.
        eventually(lambda: found.query("vae_ready == 1"))
        ask_everything(server)
        eventually(lambda: found.query('vae_requests_total{route="/encode", status="499"} == 1'))
        yield found
