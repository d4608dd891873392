"""Tests that take `client` or `connect` ask the real service through Client, then through AsyncClient."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from inspect import isasyncgen
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, load_bundle
from tests.codecs import pictures
from tests.servers import Gate, Running, loading_held, running, save_grey_and_colour
from vaeserve_client import AsyncClient, Client
from vaeserve_client.attempts import Attempts
from vaeserve_client.errors import VaeserveError

Connect = Callable[..., Client]


class Awaited:
    """An AsyncClient with the methods of a Client, on an event loop that runs while it is called."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def called(*arguments: Any, **options: Any) -> Any:
            found = method(*arguments, **options)
            return self._iterated(found) if isasyncgen(found) else self._runner.run(found)

        return called

    def _iterated(self, found: AsyncGenerator[Any, None]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(found)

        try:
            while True:
                try:
                    answer = self._runner.run(following())
                except StopAsyncIteration:
                    return
                yield answer
        finally:
            self._runner.run(found.aclose())  # type: ignore[arg-type]

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        self._runner.close()


class Waits(list[float]):
    """The waits between attempts, which are not waited: `during` is called, and gives the seconds to wait."""

    def during(self) -> float:
        return 0.0


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_grey_and_colour(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def grey(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder / "grey")


@pytest.fixture(scope="session")
def live(bundle_folder: Path) -> Iterator[Running]:
    with running(bundle_folder) as server:
        yield server


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Make a client of an address."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(request.param(url, **options))


@pytest.fixture
def client(connect: Connect, live: Running) -> Client:
    return connect(live.url)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


@pytest.fixture
def may_load(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    return loading_held(monkeypatch)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits, wait_seconds = Waits(), Attempts.wait_seconds

    def noted(attempts: Attempts, error: VaeserveError) -> float:
        waits.append(wait_seconds(attempts, error))
        return waits.during()

    monkeypatch.setattr(Attempts, "wait_seconds", noted)
    return waits


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Ten images such as the grey model's codec was made for."""
    return pictures((1, 8, 8), 10)[:, 0]
