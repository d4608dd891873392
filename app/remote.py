"""The engine in a process of its own: both ends of the wire between it and the HTTP front ends.

    front end: RemoteBatcher.submit ─► frame ─► Unix socket ─► frame ─► EngineServer ─► Batcher.submit
                       answer or Problem ◄─ frame ◄─────────────────────┘

A frame is the lengths of its two parts, a JSON document, and the bytes of arrays. A connection is a front
end's: what that asked for is dropped when it ends. A front end whose engine ends refuses what waits for it,
but for the parts of an answer that has begun, which are asked of the next engine.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from prometheus_client import Counter

from app.batcher import Answer, Arrays, Batcher, Refusal
from app.errors import Kind, Problem, no_memory
from app.operations import ModelTask, Operation

log = logging.getLogger("vaeserve")
_LENGTHS = struct.Struct("<II")
RECONNECT_SECONDS = 0.05
OVERTIME_SECONDS = 0.5  # after a deadline, which the engine keeps: it may be that which does not answer
MISMATCH_SECONDS = 5.0  # between two looks at an engine of other bundles
PULSE_SECONDS = 1.0  # between two signs of life of an engine
NEWS_SECONDS = 0.1  # for which a full queue is remembered at most
Asked = tuple[str, str, int] | tuple[()]  # a task, as it is sent; or all of them
ALL_TASKS: Asked = ()


def frame(document: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> bytes:
    """Return a frame; the document is given the arrays' types and shapes."""
    if arrays:
        document["arrays"] = [(array.dtype.str, array.shape) for array in arrays]
    head = orjson.dumps(document)
    bodies = [np.ascontiguousarray(array).data.cast("B") if array.size else b"" for array in arrays]
    return b"".join((_LENGTHS.pack(len(head), sum(map(len, bodies))), head, *bodies))


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[dict[str, Any], Arrays]]:
    """Yield documents and their arrays, which are views of what was received, until the connection ends."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head_bytes, body_bytes = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
            document = orjson.loads(await reader.readexactly(head_bytes))
            body = await reader.readexactly(body_bytes)
            arrays, start = [], 0
            for kind, shape in document.pop("arrays", ()):
                array = np.frombuffer(body, kind, math.prod(shape), start).reshape(shape)
                arrays.append(array)
                start += array.nbytes
            yield document, tuple(arrays)


class EngineServer:
    """Answers front ends from a batcher."""

    def __init__(self, batcher: Batcher, digests: Mapping[str, str]) -> None:
        self._batcher, self._digests = batcher, digests
        self.front_ends = 0  # that are connected

    async def listen(self, path: Path) -> asyncio.Server:
        """Take connections at a Unix socket."""
        return await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.front_ends += 1
        jobs: dict[int, asyncio.Task[None]] = {}
        greeting = {"device": self._batcher.device, "max_batch": self._batcher.max_batch}
        writer.write(frame({**greeting, "digests": dict(self._digests)}))
        pulse = asyncio.ensure_future(self._beat(writer))
        try:
            async for document, arrays in frames(reader):
                number = document["id"]
                if document.get("is_cancelled"):
                    if number in jobs:
                        jobs[number].cancel()
                    continue
                job = asyncio.ensure_future(self._answer(document, arrays[0], writer))
                jobs[number] = job
                job.add_done_callback(lambda _, number=number: jobs.pop(number))  # type: ignore[misc]
        finally:
            self.front_ends -= 1
            pulse.cancel()
            for job in jobs.values():
                job.cancel()
            writer.close()

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(frame({"stuck_seconds": self._batcher.stuck_seconds}))
            await asyncio.sleep(PULSE_SECONDS)

    async def _answer(self, document: dict[str, Any], rows: np.ndarray, writer: asyncio.StreamWriter) -> None:
        model, operation, samples = document["task"]
        task = ModelTask(model, Operation(operation), samples)
        submit = self._batcher.submit_when_room if document["waits"] else self._batcher.submit
        try:
            found = await submit(task, rows, document["deadline"])
            seconds = {"queue": found.queue_seconds, "compute": found.compute_seconds}
            answer = frame({"id": document["id"], **seconds}, found.arrays)
        except (Problem, MemoryError) as error:
            told = _as_document(error if isinstance(error, Problem) else no_memory())
            # For which tasks the same would be told for how long: all, or this one.
            is_full = self._batcher.is_full
            until = NEWS_SECONDS if is_full else min(NEWS_SECONDS, self._batcher.seconds_behind(task))
            full = {"full": ALL_TASKS if is_full else document["task"], "full_seconds": until}
            writer.write(frame({"id": document["id"], "problem": told, **full}))
            return
        writer.write(answer)


class EngineEndedError(Problem):
    """There is no engine to answer."""

    def __init__(self) -> None:
        super().__init__(Kind.NOT_READY, "the engine's process has ended, and another starts")


class RemoteBatcher:
    """A batcher in another process, which may end and come back."""

    def __init__(
        self,
        path: Path,
        digests: Mapping[str, str],
        *,
        max_bytes: int,
        dropped: Counter,
        on_change: Callable[[], None],
    ) -> None:
        self._path, self._digests, self._max_bytes = path, digests, max_bytes
        self._dropped, self._on_change = dropped, on_change
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Answer | Refusal]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._running: Sequence[asyncio.Task[None]] = ()
        self._full: dict[Asked, tuple[Mapping[str, Any], float]] = {}  # what was told, until when it holds
        self._is_closing = False
        self._heard, self._engine_stuck_seconds = 0.0, 0.0
        self.device, self.max_batch = "", 1

    @property
    def fault(self) -> None:
        """None: an engine whose device is lost is replaced."""

    @property
    def is_away(self) -> bool:
        """Whether there is no engine now."""
        return self._writer is None or self._writer.transport.is_closing()

    @property
    def stuck_seconds(self) -> float:
        """How long nothing has come from the engine's device, or from the engine; 0 where there is none."""
        return 0.0 if self.is_away else max(self._engine_stuck_seconds, time.monotonic() - self._heard)

    @property
    def is_running(self) -> bool:
        """False: nothing is computed in this process."""
        return False

    async def start(self) -> None:
        """Wait until the engine is there; from then on it is waited for whenever it ends."""
        self._running = [asyncio.ensure_future(part) for part in (self._stay_connected(), self._watch())]
        await self._connected.wait()

    async def close(self, timeout_seconds: float) -> bool:
        """Hang up; return True."""
        self._is_closing = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_seconds)
        return True

    def check_room(self, task: ModelTask | None = None) -> None:
        """Raise Problem, overloaded, where the engine has just said so, or does not read what it is sent."""
        for asked in (ALL_TASKS, *([] if task is None else [_asked_for(task)])):
            told, until = self._full.get(asked, ({}, 0.0))
            if time.monotonic() < until:
                self._dropped.labels("overloaded").inc()
                raise _as_problem(told)
        unread = 0 if self._writer is None else self._writer.transport.get_write_buffer_size()
        if unread > self._max_bytes:
            self._dropped.labels("overloaded").inc()
            detail = f"{unread} bytes wait for the engine to read them; the limit is {self._max_bytes}"
            raise Problem(Kind.OVERLOADED, detail, value=unread, limit=self._max_bytes)

    async def submit(self, task: ModelTask, rows: np.ndarray, deadline: float) -> Answer:
        """Do as Batcher.submit; raise Problem, not ready, where there is no engine, or none any more."""
        try:
            return await self._asked(task, rows, deadline, waits=False)
        except EngineEndedError:
            self._dropped.labels("fault").inc()
            raise

    async def submit_when_room(self, task: ModelTask, rows: np.ndarray, deadline: float) -> Answer:
        """Do as Batcher.submit_when_room; where the engine ends, ask the next one: the answer has begun."""
        while True:
            try:
                return await self._asked(task, rows, deadline, waits=True)
            except EngineEndedError:
                if not await self._is_back(deadline):
                    self._dropped.labels("fault").inc()
                    raise

    async def _is_back(self, deadline: float) -> bool:
        """Wait for an engine; return whether there is one in time."""
        if self._is_closing:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await asyncio.sleep(RECONNECT_SECONDS)  # the end may be known to the socket alone as yet
                await self._connected.wait()
        return not self.is_away and time.monotonic() < deadline

    async def _asked(self, task: ModelTask, rows: np.ndarray, deadline: float, waits: bool) -> Answer:
        if self._writer is None or self.is_away:
            raise EngineEndedError
        number, created = next(self._numbers), time.monotonic()
        asked = {"id": number, "task": _asked_for(task)}
        future: asyncio.Future[Answer | Refusal] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._writer.write(frame({**asked, "deadline": deadline, "waits": waits}, [rows]))
            async with asyncio.timeout(max(0.0, deadline - created) + OVERTIME_SECONDS):
                answer = await future
        except TimeoutError:
            self._cancel(number)
            waited = time.monotonic() - created
            detail = f"no answer within {waited:.3g} seconds; the engine does not answer"
            raise Problem(Kind.DEADLINE, detail, value=round(waited, 3)) from None
        except asyncio.CancelledError:
            self._cancel(number)
            raise
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, Answer):
            return answer
        raise answer()

    def _cancel(self, number: int) -> None:
        if self._writer is not None and not self.is_away:
            self._writer.write(frame({"id": number, "is_cancelled": True}))

    async def _stay_connected(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                await self._listen(reader, writer)
            except Exception:  # no memory for an answer, say; what waits for it is refused below
                log.exception("the connection to the engine failed, and is made anew")
            finally:
                self._end_connection(writer)

    async def _watch(self) -> None:
        while True:  # an engine that is silent changes nothing else
            await asyncio.sleep(PULSE_SECONDS)
            self._on_change()

    def _end_connection(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        if self._writer is not None and not self._is_closing:
            log.error("the engine's process has ended, while %d requests waited for it", len(self._waiting))
        self._writer = None
        self._connected.clear()
        self._on_change()
        for future in self._waiting.values():
            if not future.done():
                future.set_result(EngineEndedError)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for document, arrays in frames(reader):
            self._heard = time.monotonic()
            if "stuck_seconds" in document:
                self._engine_stuck_seconds = document["stuck_seconds"]
                continue
            if "device" in document:
                if document["digests"] != self._digests:
                    log.error("the engine has other bundles than this process; restart the service")
                    await asyncio.sleep(MISMATCH_SECONDS)
                    return
                self.device, self.max_batch = document["device"], document["max_batch"]
                self._engine_stuck_seconds = 0.0
                self._writer = writer
                self._connected.set()
                self._on_change()
                continue
            future = self._waiting.get(document["id"])
            if "problem" in document:
                self._refuse(future, document)
            elif future is not None and not future.done():
                future.set_result(Answer(arrays, document["queue"], document["compute"]))

    def _refuse(self, future: asyncio.Future[Answer | Refusal] | None, document: Mapping[str, Any]) -> None:
        told = document["problem"]
        if told["kind"] == Kind.OVERLOADED.name:
            self._full[tuple(document["full"])] = told, time.monotonic() + document["full_seconds"]
        if future is not None and not future.done():
            has_ended = told["kind"] == Kind.NOT_READY.name  # all but its connection
            future.set_result(EngineEndedError if has_ended else partial(_as_problem, told))


def _asked_for(task: ModelTask) -> Asked:
    return task.model, task.operation, task.samples


def _as_document(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind.name,
        "detail": problem.detail,
        "value": problem.value,
        "limit": problem.limit,
        "retry_after_seconds": problem.retry_after_seconds,
    }


def _as_problem(document: Mapping[str, Any]) -> Problem:
    return Problem(**{**document, "kind": Kind[document["kind"]]})
