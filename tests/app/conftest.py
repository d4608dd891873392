import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.server import Server
from app.service import Service
from app.settings import Settings
from codec.chunk import verified
from codec.model import FILE, CodecModel
from models.bundle import Bundle, change_bundle, load_bundle
from tests.bundles import save_small_bundle, small_config
from tests.codecs import SHAPES, fitted


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    save_small_bundle(folder / "grey", small_config((1, 8, 8)))
    save_small_bundle(folder / "colour", small_config((3, 16, 12), latent_dim=3))
    change_bundle(folder / "grey", {FILE: fitted("grey")})
    return folder


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of another codec."""
    folder = tmp_path_factory.mktemp("other") / "other"
    save_small_bundle(folder, small_config(SHAPES["rgb"]))
    change_bundle(folder, {FILE: fitted("rgb")})
    return folder


@pytest.fixture(scope="session")
def codec(bundle_folder: Path) -> CodecModel:
    return verified(bundle_folder / "grey" / FILE)


@pytest.fixture(scope="session")
def other_codec(other_folder: Path) -> CodecModel:
    return verified(other_folder / FILE)


@pytest.fixture(scope="session")
def grey(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder / "grey")


@pytest.fixture(scope="session")
def colour(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder / "colour")


class Running:
    """A server in a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self.server = Server(settings)
        self.service: Service = self.server.app.state.service
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            self.thread.join(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def wait_until_ready(self) -> None:
        while self.service.not_ready == "loading":
            self.thread.join(0.01)
        assert self.client.get("/health/ready").status_code == 200

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextmanager
def running(folder: Path, **changes: Any) -> Iterator[Running]:
    values: dict[str, Any] = {
        "models": (str(folder / "grey"), str(folder / "colour")),
        "port": 0,
        "threads": 1,
        "device": "cpu",
        "log_level": "error",
        "max_batch": 16,
    }
    threads = torch.get_num_threads()
    server = Running(Settings(**{**values, **changes}))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def live(bundle_folder: Path) -> Iterator[Running]:
    with running(bundle_folder) as server:
        yield server


@pytest.fixture
def client(live: Running) -> httpx.Client:
    return live.client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
