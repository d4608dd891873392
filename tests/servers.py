"""The real service in a thread of this process, and what holds its work up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from app.batcher import Pending
from app.engine import CpuEngine
from app.operations import ModelTask
from app.server import Server
from app.service import Service, load_bundles
from app.settings import Settings
from codec.model import FILE
from models.bundle import change_bundle
from tests.bundles import save_small_bundle, small_config
from tests.codecs import fitted


def save_grey_and_colour(folder: Path) -> Path:
    """Save the two bundles that `running` serves by default; grey has a codec."""
    save_small_bundle(folder / "grey", small_config((1, 8, 8)))
    save_small_bundle(folder / "colour", small_config((3, 16, 12), latent_dim=3))
    change_bundle(folder / "grey", {FILE: fitted("grey")})
    return folder


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
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=30)

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


class Gate:
    """Holds every batch of every CPU engine until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.opened = threading.Semaphore(0), threading.Event()
        self.error: Exception | None = None
        launch = CpuEngine.launch

        def held(engine: CpuEngine, task: ModelTask, parts: list[np.ndarray]) -> Pending:
            self.entered.release()
            assert self.opened.wait(30)
            if self.error is not None:
                raise self.error
            return launch(engine, task, parts)

        monkeypatch.setattr(CpuEngine, "launch", held)
        monkeypatch.setattr(CpuEngine, "warm_up", lambda engine: None)


def loading_held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have every service wait for the returned event before it loads, and nobody wait for the service."""
    event = threading.Event()

    def slow(names: tuple[str, ...]) -> object:
        assert event.wait(30)
        return load_bundles(names)

    monkeypatch.setattr("app.service.load_bundles", slow)
    monkeypatch.setattr(Running, "wait_until_ready", lambda self: None)
    return event
