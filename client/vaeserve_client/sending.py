"""Sending and waiting in the caller's thread, and in several for long inputs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import takewhile
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from vaeserve_client.answers import Answer
from vaeserve_client.attempts import Attempts, Retries, checked_seconds
from vaeserve_client.batches import check_sizes, counted, parts_of
from vaeserve_client.calls import Call
from vaeserve_client.errors import VaeserveError
from vaeserve_client.exchange import (
    CONNECT_SECONDS,
    TIMEOUT_SECONDS,
    URL,
    answer_of,
    failure_of,
    options,
    proxy_of,
    request_options,
)

T = TypeVar("T")
P = TypeVar("P", bound=Sized)
PART_BYTES = 1 << 18


class Sender:
    """Sends calls and waits for their answers; what a Client is beneath its methods."""

    def __init__(
        self,
        base_url: str = URL,
        *,
        timeout: float = TIMEOUT_SECONDS,
        connect_timeout: float = CONNECT_SECONDS,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(transport=transport, **options(base_url, headers))
        self._proxy = proxy_of(base_url) if transport is None else None
        self._connect_seconds = checked_seconds("connect_timeout", connect_timeout)
        self._timeout, self._retries = checked_seconds("timeout", timeout), retries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _ask_all(
        self,
        build: Callable[[Any], Call[T]],
        items: Iterable[Any],
        batch: int,
        concurrency: int,
        progress: bool,
        timeout: float | None,
    ) -> Generator[T, None, None]:
        check_sizes(batch, concurrency)

        def ask(part: Any, stop: threading.Event) -> T:
            return self._ask_with(build, part, timeout, stop)

        return answered_in_order(ask, parts_of(items, batch), concurrency, partial(counted, items, progress))

    def _ask_with(
        self,
        build: Callable[[Any], Call[T]],
        given: object,
        timeout: float | None,
        stop: threading.Event | None = None,
    ) -> T:
        attempts = self._attempts(timeout)  # files that are read and images that are encoded take time too
        return self._answered(build(given), attempts, stop)

    def _ask(self, call: Call[T], timeout: float | None, retries: Retries | None = None) -> T:
        return self._answered(call, self._attempts(timeout, retries))

    def _attempts(self, timeout: float | None, retries: Retries | None = None) -> Attempts:
        return Attempts(retries or self._retries, self._timeout if timeout is None else timeout)

    def _answered(self, call: Call[T], attempts: Attempts, stop: threading.Event | None = None) -> T:
        while True:
            try:
                return call.read(self._answer(call, attempts))
            except VaeserveError as error:
                if (stop or threading.Event()).wait(attempts.wait_seconds(error)):
                    raise

    def _answer(self, call: Call[Any], attempts: Attempts) -> Answer:
        attempts.remaining_seconds()
        asked = request_options(call, attempts, self._connect_seconds)
        if call.body is not None and len(call.body.content) > PART_BYTES:
            asked["content"] = in_time(call.body.content, attempts)
        request = self._http.build_request(**asked)
        parts = []
        try:
            response = self._http.send(request, stream=True)
            try:
                for part in response.iter_bytes():
                    parts.append(part)
                    attempts.remaining_seconds()
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise failure_of(error, attempts, self._proxy) from error
        return answer_of(response, b"".join(parts))


def in_time(content: bytes, attempts: Attempts) -> Iterator[bytes]:
    """Yield a body in parts; raise DeadlineExceeded once the time is over."""
    for start in range(0, len(content), PART_BYTES):
        attempts.remaining_seconds()
        yield content[start : start + PART_BYTES]


def answered_in_order(
    ask: Callable[[P, threading.Event], T],
    parts: Iterator[P],
    concurrency: int,
    counted: Callable[[], AbstractContextManager[Callable[[int], object]]],
) -> Generator[T, None, None]:
    """Yield the answer to each part, `concurrency` of them asked at once in threads.

    An answer that is here as a part is read is yielded before the next one is. A failed call, or the end of
    the caller's loop, sets the event that `ask` is given, which ends waits between attempts; no further part
    is asked, and those on their way are waited for. Where reading fails, the answers to what was read come
    first.
    """
    stop = threading.Event()
    waiting: deque[tuple[int, Future[T]]] = deque()
    failures: list[Exception] = []

    def first(count: Callable[[int], object]) -> T:
        size, future = waiting.popleft()
        answer = future.result()
        count(size)
        return answer

    with counted() as count, ThreadPoolExecutor(concurrency, "vaeserve-client") as pool:
        try:
            for part in _until_failure(parts, failures):
                waiting.append((len(part), pool.submit(ask, part, stop)))
                # Counted now: answers that arrive while the caller works leave none on its way behind them.
                done = sum(1 for _ in takewhile(lambda asked: asked[1].done(), waiting))
                for _ in range(max(done, len(waiting) == concurrency)):
                    yield first(count)
            while waiting:
                yield first(count)
        finally:
            stop.set()
    if failures:
        raise failures[0]


def _until_failure(parts: Iterator[P], failures: list[Exception]) -> Iterator[P]:
    try:
        yield from parts
    except Exception as error:
        failures.append(error)
