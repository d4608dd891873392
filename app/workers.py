"""Threads for work that no batch would make faster."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.backlog import PAST
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
    """Runs functions in threads; bounds the bytes that they hold, and the seconds for which one waits."""

    def __init__(self, threads: int, metrics: Metrics, *, max_bytes: int, max_seconds: float) -> None:
        self._executor = workers(threads)
        self._threads, self._metrics = threads, metrics
        self._max_bytes, self._max_seconds = max_bytes, max_seconds
        self._lock = threading.Lock()
        self._held_functions = self._held_bytes = 0
        self._waiting_bytes: Counter[str] = Counter()  # by kind
        self._measured: dict[str, tuple[float, float]] = {}  # seconds and bytes of each kind, as they end
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

    async def run(self, function: Callable[[], T], kind: str, size_bytes: int, deadline: float) -> Done[T]:
        """Run a function that holds `size_bytes` until it ends; a byte takes as long as others of its kind.

        Raises Problem: overloaded where all would hold too much, or what waits takes too long, though one
        alone always may; deadline where `deadline` (time.monotonic) passes first. A function that has begun
        then runs to its end all the same.
        """
        created = time.monotonic()

        # Taken out when it begins or is cancelled: the executor keeps what it was given until its turn comes.
        waiting = [function]

        def timed() -> Done[T]:
            started = time.monotonic()
            begun = waiting.pop()
            self._wait(kind, -size_bytes)
            try:
                found = begun()
            except Exception:
                self._measure(kind, size_bytes, time.monotonic() - started, is_whole=False)
                raise
            seconds = time.monotonic() - started
            self._measure(kind, size_bytes, seconds)
            return Done(found, started - created, seconds)

        def ended(_: object) -> None:
            if waiting:
                waiting.clear()
                self._wait(kind, -size_bytes)
            self._hold(-1, -size_bytes)

        self._admit(kind, size_bytes)
        future = self._executor.submit(timed)
        future.add_done_callback(ended)
        del function
        return await in_time(asyncio.wrap_future(future), deadline, self._metrics)

    def _admit(self, kind: str, size_bytes: int) -> None:
        if self._is_closing:
            raise Problem(Kind.NOT_READY, "the service is stopping")
        wanted = self._held_bytes + size_bytes
        if self._held_functions and wanted > self._max_bytes:
            detail = f"{wanted} bytes would be held; the limit is {self._max_bytes}"
            raise self._overloaded(detail, wanted, self._max_bytes)
        seconds = self._waiting_seconds()
        if seconds > self._max_seconds:
            detail = f"{seconds:.3g} seconds of work wait before it; the limit is {self._max_seconds:g}"
            raise self._overloaded(detail, round(seconds, 3), self._max_seconds)
        self._hold(1, size_bytes)
        self._wait(kind, size_bytes)

    def _overloaded(self, detail: str, value: float, limit: float) -> Problem:
        self._metrics.dropped.labels("overloaded").inc()
        wait = min(self._waiting_seconds() or 1.0, self._max_seconds)
        return Problem(Kind.OVERLOADED, detail, value=value, limit=limit, retry_after_seconds=wait)

    def _waiting_seconds(self) -> float:
        with self._lock:
            each = {kind: seconds / size for kind, (seconds, size) in self._measured.items()}
            waiting = sum(each.get(kind, 0.0) * size for kind, size in self._waiting_bytes.items())
        return waiting / self._threads

    def _measure(self, kind: str, size_bytes: int, seconds: float, *, is_whole: bool = True) -> None:
        """Learn what a function took; one that failed tells only that the whole takes as long at least."""
        with self._lock:
            past, size = self._measured.get(kind, (0.0, 0.0))
            if is_whole or seconds * size > past * size_bytes or not size:
                self._measured[kind] = PAST * past + seconds, PAST * size + max(1, size_bytes)

    def _wait(self, kind: str, size_bytes: int) -> None:
        with self._lock:
            self._waiting_bytes[kind] += size_bytes

    def _hold(self, count: int, size_bytes: int) -> None:
        with self._lock:
            self._held_functions += count
            self._held_bytes += size_bytes
            self._idle.clear() if self._held_functions else self._idle.set()
