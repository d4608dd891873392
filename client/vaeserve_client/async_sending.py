"""Sending and waiting on an event loop, in several tasks for long inputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sized
from contextlib import AbstractContextManager, aclosing
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np

from vaeserve_client.answers import Answer
from vaeserve_client.attempts import Attempts, Retries, checked_seconds
from vaeserve_client.batches import check_sizes, counted, parts_of_any
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


class AsyncSender:
    """Sends calls and waits for their answers; what an AsyncClient is beneath its methods."""

    def __init__(
        self,
        base_url: str = URL,
        *,
        timeout: float = TIMEOUT_SECONDS,
        connect_timeout: float = CONNECT_SECONDS,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(transport=transport, **options(base_url, headers))
        self._proxy = proxy_of(base_url) if transport is None else None
        self._connect_seconds = checked_seconds("connect_timeout", connect_timeout)
        self._timeout, self._retries = checked_seconds("timeout", timeout), retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def _ask_all(
        self,
        build: Callable[[Any], Call[T]],
        items: Iterable[Any] | AsyncIterable[Any],
        batch: int,
        concurrency: int,
        progress: bool,
        timeout: float | None,
    ) -> AsyncGenerator[T, None]:
        check_sizes(batch, concurrency)

        async def ask(part: Any) -> T:
            return await self._ask_with(build, part, timeout)

        parts = parts_of_any(items, batch)
        return answered_in_order(ask, parts, concurrency, partial(counted, items, progress))

    async def _ask_with(self, build: Callable[[Any], Call[T]], given: object, timeout: float | None) -> T:
        attempts = self._attempts(timeout)  # files that are read and images that are encoded take time too
        try:
            async with asyncio.timeout(attempts.remaining_seconds()) as limit:
                call = await _built(build, given)
        except TimeoutError:
            if not limit.expired():  # a file system's own
                raise
            raise attempts.exceeded() from None
        return await self._answered(call, attempts)

    async def _ask(self, call: Call[T], timeout: float | None, retries: Retries | None = None) -> T:
        return await self._answered(call, self._attempts(timeout, retries))

    def _attempts(self, timeout: float | None, retries: Retries | None = None) -> Attempts:
        return Attempts(retries or self._retries, self._timeout if timeout is None else timeout)

    async def _answered(self, call: Call[T], attempts: Attempts) -> T:
        while True:
            try:
                return call.read(await self._answer(call, attempts))
            except VaeserveError as error:
                await asyncio.sleep(attempts.wait_seconds(error))

    async def _answer(self, call: Call[Any], attempts: Attempts) -> Answer:
        request = self._http.build_request(**request_options(call, attempts, self._connect_seconds))
        try:
            async with asyncio.timeout(attempts.remaining_seconds()):
                response = await self._http.send(request)
        except TimeoutError:
            raise attempts.exceeded() from None
        except httpx.HTTPError as error:
            raise failure_of(error, attempts, self._proxy) from error
        return answer_of(response, response.content)


async def _built(build: Callable[[Any], Call[T]], given: object) -> Call[T]:
    """Build a call from what a caller gave, in a thread where files are read or images are encoded."""
    if isinstance(given, np.ndarray | range):
        return build(given)
    return await asyncio.to_thread(build, given)


async def answered_in_order(
    ask: Callable[[P], Coroutine[Any, Any, T]],
    parts: AsyncGenerator[P, None],
    concurrency: int,
    counted: Callable[[], AbstractContextManager[Callable[[int], object]]],
) -> AsyncGenerator[T, None]:
    """Yield the answer to each part, `concurrency` of them asked at once in tasks.

    One task reads the parts, so that answers are yielded while it waits for the next one. A failed call, or
    the end of the caller's loop, cancels the others. Where reading fails, the answers to what was read come
    first.
    """
    room = asyncio.Semaphore(concurrency)
    asked: asyncio.Queue[tuple[int, asyncio.Task[T]] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[T]] = set()

    async def read() -> None:
        async with aclosing(parts):
            await room.acquire()
            async for part in parts:
                task = asyncio.create_task(ask(part))
                tasks.add(task)
                asked.put_nowait((len(part), task))
                await room.acquire()

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: asked.put_nowait(None))
    with counted() as count:
        try:
            while first := await asked.get():
                size, task = first
                answer = await task
                tasks.remove(task)
                count(size)
                yield answer
                room.release()
                await asyncio.sleep(0)  # one is taken, one more is read
            await reader
        finally:
            for under_way in (reader, *tasks):
                under_way.cancel()
            await asyncio.gather(reader, *tasks, return_exceptions=True)
