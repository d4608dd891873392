"""The open-loop load generator: requests at random times that do not wait for answers to others.

A server that stalls is charged for every request that comes meanwhile: none waits for another's answer. By
how much the generator itself was late, whose timers tick in milliseconds, is noted apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools
import numpy as np
import uvloop

DRAIN_SECONDS = 35.0  # for answers that are due when the load ends


@dataclass
class Answers:
    """What came back: of each request its status (0 for none), and seconds from when it was sent."""

    offered_per_second: float
    seconds: float
    status: list[int] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    has_retry_after: list[bool] = field(default_factory=list)
    late: list[float] = field(default_factory=list)  # by how much each request was sent late

    def latencies(self, status: int) -> np.ndarray:
        """Return the latencies of answers of one status, in seconds."""
        return np.array([b for a, b in zip(self.status, self.latency, strict=True) if a == status])


class _Connection(asyncio.Protocol):
    """One keep-alive connection, a request at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self._has_retry_after = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._load.lost(self, self._sent)

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, begun: float) -> None:
        """Send a request whose latency counts from `begun`."""
        self._sent, self._has_retry_after = begun, False
        if self._transport is None:
            self._load.lost(self, begun)
        else:
            self._transport.write(request)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._has_retry_after |= name.lower() == b"retry-after"

    def on_message_complete(self) -> None:
        sent, self._sent = self._sent, 0.0
        status = self._parser.get_status_code()
        is_kept = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        self._load.answered(self, status, sent, self._has_retry_after, is_kept)


class _Load:
    def __init__(self, port: int, requests: Sequence[bytes], answers: Answers) -> None:
        self._port, self._requests, self._answers = port, requests, answers
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._in_flight = 0
        self._is_over = False
        self._drained = asyncio.Event()

    async def run(self, due: np.ndarray) -> None:
        loop = asyncio.get_running_loop()
        opening: set[asyncio.Task[None]] = set()
        started = loop.time() + 0.05
        for number, offset in enumerate(due.tolist()):
            at = started + offset
            while (wait := at - loop.time()) > 0:
                await asyncio.sleep(wait)
            self._in_flight += 1
            request = self._requests[number % len(self._requests)]
            while self._idle:
                connection = self._idle.pop()
                if connection.is_open:
                    self._answers.late.append(loop.time() - at)
                    connection.send(request, time.perf_counter())
                    break
            else:
                task = asyncio.ensure_future(self._open(request, at))
                opening.add(task)
                task.add_done_callback(opening.discard)
        self._is_over = True
        if self._in_flight:
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._drained.wait()
            except TimeoutError:
                for _ in range(self._in_flight):
                    self._note(0, DRAIN_SECONDS, False)
                self._in_flight = 0
        for connection in list(self._all):
            connection.close()

    async def _open(self, request: bytes, at: float) -> None:
        loop = asyncio.get_running_loop()
        self._answers.late.append(loop.time() - at)
        begun = time.perf_counter()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except OSError:
            self._ended(0, time.perf_counter() - begun, False)
            return
        self._all.add(connection)
        connection.send(request, begun)

    def answered(
        self, connection: _Connection, status: int, sent: float, has_retry_after: bool, is_kept: bool
    ) -> None:
        self._ended(status, time.perf_counter() - sent, has_retry_after)
        if is_kept:
            self._idle.append(connection)

    def lost(self, connection: _Connection, sent: float) -> None:
        self._all.discard(connection)
        if sent and not (self._is_over and not self._in_flight):
            self._ended(0, time.perf_counter() - sent, False)

    def _ended(self, status: int, latency: float, has_retry_after: bool) -> None:
        self._note(status, latency, has_retry_after)
        self._in_flight -= 1
        if self._is_over and not self._in_flight:
            self._drained.set()

    def _note(self, status: int, latency: float, has_retry_after: bool) -> None:
        self._answers.status.append(status)
        self._answers.latency.append(latency)
        self._answers.has_retry_after.append(has_retry_after)


def request_bytes(method: str, path: str, content_type: str, accept: str, body: bytes) -> bytes:
    """Return a whole HTTP/1.1 request."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Accept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def offer(port: int, requests: Sequence[bytes], per_second: float, seconds: float, seed: int = 0) -> Answers:
    """Offer requests at so many a second, exponential times apart, and wait for all answers."""
    gaps = np.random.default_rng(seed).exponential(1 / per_second, int(1.5 * per_second * seconds) + 100)
    due = np.cumsum(gaps)
    return _offered(port, requests, due[due < seconds], seconds)


def offer_one(port: int, request: bytes) -> Answers:
    """Send one request, and wait for its answer."""
    return _offered(port, [request], np.zeros(1), 1e-3)


def _offered(port: int, requests: Sequence[bytes], due: np.ndarray, seconds: float) -> Answers:
    answers = Answers(len(due) / seconds, seconds)
    begun = time.monotonic()

    async def run() -> None:
        await _Load(port, requests, answers).run(due)

    uvloop.run(run())
    answers.seconds = max(seconds, time.monotonic() - begun)
    return answers
