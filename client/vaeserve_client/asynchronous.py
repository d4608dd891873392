"""Sending and waiting on an event loop, in several tasks for long inputs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sized
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np
from tqdm import tqdm

from vaeserve_client.answers import Answer
from vaeserve_client.attempts import Attempts, Retries
from vaeserve_client.batches import bar_of, check_sizes, parts_of_any
from vaeserve_client.calls import Call
from vaeserve_client.errors import VaeserveError
from vaeserve_client.exchange import (
    CONNECT_SECONDS,
    TIMEOUT_SECONDS,
    URL,
    answer_of,
    failure_of,
    options,
    request_options,
)

T = TypeVar("T")
P = TypeVar("P", bound=Sized)


class Asynchronous:
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
        self._timeout, self._connect_seconds, self._retries = timeout, connect_timeout, retries

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
            return await self._ask(await built(build, part), timeout)

        parts = parts_of_any(items, batch)
        return answered_in_order(ask, parts, concurrency, partial(bar_of, items, progress))

    async def _ask(self, call: Call[T], timeout: float | None, retries: Retries | None = None) -> T:
        attempts = Attempts(retries or self._retries, self._timeout if timeout is None else timeout)
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
            raise failure_of(error, attempts) from error
        return answer_of(response, response.content)


async def built(build: Callable[..., Call[T]], given: object, **parameters: Any) -> Call[T]:
    """Build a call from what a caller gave, in a thread where files are read or images are encoded."""
    if isinstance(given, np.ndarray | range):
        return build(given, **parameters)
    return await asyncio.to_thread(build, given, **parameters)


async def answered_in_order(
    ask: Callable[[P], Coroutine[Any, Any, T]],
    parts: AsyncGenerator[P, None],
    concurrency: int,
    bar: Callable[[], tqdm[Any]],
) -> AsyncGenerator[T, None]:
    """Yield the answer to each part, `concurrency` of them asked at once in tasks.

    An error, or the end of the caller's loop, cancels the others.
    """
    waiting: deque[tuple[int, asyncio.Task[T]]] = deque()

    async def first(bar: tqdm[Any]) -> T:
        size, task = waiting.popleft()
        answer = await task
        bar.update(size)
        return answer

    with bar() as shown:
        try:
            async with aclosing(parts):
                async for part in parts:
                    waiting.append((len(part), asyncio.create_task(ask(part))))
                    if len(waiting) == concurrency:
                        yield await first(shown)
            while waiting:
                yield await first(shown)
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
