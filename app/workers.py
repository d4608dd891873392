"""Threads for work that no batch would make faster."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.errors import Kind, Problem
from app.metrics import Metrics
from codec.workers import workers

T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a function returned, and where its time went."""

    found: T
    queue_seconds: float
    compute_seconds: float


async def in_time(waited_for: Awaitable[T], deadline: float, metrics: Metrics) -> T:
    """Wait for a thread's work, or for the turn to be given to one; count what is dropped.

    Raises Problem, deadline, where `deadline` (time.monotonic) passes first.
    """
    began = time.monotonic()
    try:
        async with asyncio.timeout(max(0.0, deadline - began)):
            return await waited_for
    except TimeoutError:
        metrics.dropped.labels("deadline").inc()
        waited = time.monotonic() - began
        detail = f"no answer within {waited:.3g} seconds; the request waited for a thread or in one"
        raise Problem(Kind.DEADLINE, detail, value=round(waited, 3)) from None
    except asyncio.CancelledError:
        metrics.dropped.labels("disconnected").inc()
        raise


class Workers:
    """Runs functions in threads, as long as what they all hold is bounded."""

    def __init__(self, threads: int, max_bytes: int, metrics: Metrics) -> None:
        self._executor = workers(threads)
        self._max_bytes, self._metrics = max_bytes, metrics
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._is_closing, self._idle = False, threading.Event()
        self._idle.set()

    async def close(self, timeout_seconds: float) -> bool:
        """Take nothing more; return whether what was taken ends in time."""
        self._is_closing = True
        return await asyncio.to_thread(self._idle.wait, timeout_seconds)

    @property
    def is_running(self) -> bool:
        """Whether a function runs or waits, be it that nobody waits for it any more."""
        return not self._idle.is_set()

    async def run(self, function: Callable[[], T], size_bytes: int, deadline: float) -> Done[T]:
        """Run a function that holds `size_bytes` until it ends.

        Raises Problem: overloaded where all would hold too much, though one alone always may; deadline where
        `deadline` (time.monotonic) passes first. A function that has begun then runs to its end all the same.
        """
        created = time.monotonic()

        # Taken out when it begins or is cancelled: the executor keeps what it was given until its turn comes.
        waiting = [function]

        def timed() -> Done[T]:
            started = time.monotonic()
            found = waiting.pop()()
            return Done(found, started - created, time.monotonic() - started)

        def ended(_: object) -> None:
            waiting.clear()
            self._hold(-size_bytes)

        self._admit(size_bytes)
        future = self._executor.submit(timed)
        future.add_done_callback(ended)
        del function
        return await in_time(asyncio.wrap_future(future), deadline, self._metrics)

    def _admit(self, size_bytes: int) -> None:
        if self._is_closing:
            raise Problem(Kind.NOT_READY, "the service is stopping")
        wanted = self._held_bytes + size_bytes
        if self._held_bytes and wanted > self._max_bytes:
            self._metrics.dropped.labels("overloaded").inc()
            detail = f"{wanted} bytes of images would be held; the limit is {self._max_bytes}"
            raise Problem(Kind.OVERLOADED, detail, value=wanted, limit=self._max_bytes)
        self._hold(size_bytes)

    def _hold(self, size_bytes: int) -> None:
        with self._lock:
            self._held_bytes += size_bytes
            self._idle.clear() if self._held_bytes else self._idle.set()
