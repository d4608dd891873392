"""Requests in, batches out, without a timer for batches.

    submit ─► admission ─► a queue for each task ─► engine thread: take what waits, run, deliver ─► futures

When the device is free it takes what is queued for the task whose turn it is, up to the images that the
engine has room for (fewer of a task with several samples an image). Every job that waits gets an equal share
of the batch, and what the small ones leave is taken in turns: a large job is split, small ones never wait for
the whole of it, and it never waits for all small ones that come. A deep engine is given what waits when a
batch starts, and the next when that batch has ended. One lock guards the queues; the event loop is woken once
a batch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch

from app.backlog import Backlog
from app.errors import Kind, Problem
from app.metrics import DeviceMemory, QueueMetrics
from app.operations import ModelTask
from app.rows import bytes_in, images_in, stop_of

Cause = Literal["overloaded", "deadline", "disconnected", "fault"]
Arrays = tuple[np.ndarray, ...]
# Makes what is raised where an answer is waited for. An exception that is kept there itself would keep the
# rows, until garbage is looked for: by its traceback's frames.
Refusal = Callable[[], Exception]
MEMORY_SECONDS = 1.0  # at least, between two looks at the device's memory
log = logging.getLogger("vaeserve")


class Pending(Protocol):
    """A batch that the device was given."""

    def result(self) -> Arrays:
        """Wait for the batch and return its output arrays, one row for each input row."""


class Engine(Protocol):
    """What runs batches; called from the batcher's thread alone."""

    @property
    def depth(self) -> int:
        """Batches given to the device before the first is waited for."""

    @property
    def max_batch(self) -> int:
        """Images of a batch, as a rule."""

    def room(self, task: ModelTask) -> int:
        """Return the images of a batch of a task at most."""

    def warm_up(self) -> None:
        """Get ready to launch."""

    def launch(self, task: ModelTask, parts: list[np.ndarray]) -> Pending:
        """Start computing the concatenated rows of `parts`."""

    def is_lost(self) -> bool:
        """Return whether the device has failed for good."""

    def memory(self) -> DeviceMemory | None:
        """Return the device's memory; None where it has none of its own, or does not answer."""


@dataclass(frozen=True)
class Answer:
    """The outputs of a job, and where its time went."""

    arrays: Arrays
    queue_seconds: float
    compute_seconds: float


@dataclass(eq=False)
class Job:
    """One request's rows of input on their way through the queue."""

    task: ModelTask
    rows: np.ndarray
    deadline: float  # on the time.monotonic clock
    future: asyncio.Future[Answer | Refusal]
    created: float = field(default_factory=time.monotonic)
    taken: int = 0  # rows already in a batch
    started: float = 0.0  # when the device turned to its first batch
    compute_seconds: float = 0.0
    outputs: list[Arrays] = field(default_factory=list)
    dropped: Cause | None = None

    @property
    def waiting(self) -> int:
        """Rows not yet in a batch."""
        return len(self.rows) - self.taken


@dataclass
class Batch:
    """Parts of jobs that run together."""

    task: ModelTask
    jobs: list[Job] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    images: int = 0
    started: float = 0.0  # when it was formed, or later: when the one before it ended


@dataclass
class Line:
    """The jobs of a task that wait: those of which a part is computed, and the others."""

    begun: deque[Job] = field(default_factory=deque)
    fresh: deque[Job] = field(default_factory=deque)
    credit: float = 0.0  # images of the next batch that what is begun may have before the others

    def __len__(self) -> int:
        return len(self.begun) + len(self.fresh)

    def __iter__(self) -> Iterator[Job]:
        yield from self.begun
        yield from self.fresh

    def turns(self, room: int, batch: Batch) -> Iterator[Job]:
        """Yield jobs, some more than once, until none waits or the batch made of them meanwhile is full.

        Up to half of the room is for what is begun: it goes on however many jobs come, and holds none of them
        back. What it has beyond that, as its rows may be chunks of many images, counts against its next half.
        """
        self.credit = min(self.credit, 0.0) + room / 2
        again: deque[Job] = deque()
        while batch.images < room and (self or again):
            goes_first = bool(self.begun and self.fresh and self.credit > 0)
            line = self.begun if goes_first or not self.fresh else self.fresh
            job, images = (line or again).popleft(), batch.images
            if job.dropped is None and job.deadline > batch.started:  # or its own timer answers it
                yield job
                if goes_first:
                    self.credit -= batch.images - images
                if job.waiting:
                    again.append(job)
        self.begun.extend(again)


def _lacks_memory(error: Exception) -> bool:
    is_known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_known or "can't allocate memory" in str(error)  # as torch says where it is the host's


class Batcher:
    """Admits jobs, forms batches of them for one engine, and hands the outputs back."""

    def __init__(
        self,
        engine: Engine,
        metrics: QueueMetrics,
        *,
        max_queued_images: int,
        max_queued_bytes: int,
        max_queued_seconds: float,
    ) -> None:
        self._engine, self._metrics = engine, metrics
        self._max_queued_images, self._max_queued_bytes = max_queued_images, max_queued_bytes
        self._max_queued_seconds = max_queued_seconds
        metrics.max_queued_images.set(max_queued_images)
        self._changed = threading.Condition()
        self._queues: dict[ModelTask, Line] = {}  # in the order of their turns
        self._backlog = Backlog(engine.room)
        self._behind: set[ModelTask] = set()  # whose last job was refused for the seconds before it
        self._queued_images = self._queued_bytes = self._running_images = 0
        self._launched: deque[tuple[Batch, Pending]] = deque()
        self._last_ended = self._next_look = 0.0
        self._busy_since: float | None = None
        self._is_closing = False
        self._fault: BaseException | None = None
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._warm: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __repr__(self) -> str:
        with self._changed:
            jobs = sum(map(len, self._queues.values()))
            state = f"queued {self._queued_images} images in {jobs} jobs, running {self._running_images}"
        return f"<Batcher {state}>"

    @property
    def device(self) -> str:
        """What the engine runs on, in words."""
        return str(self._engine)

    @property
    def max_batch(self) -> int:
        """Images of a batch, as a rule."""
        return self._engine.max_batch

    @property
    def fault(self) -> BaseException | None:
        """What the device was lost to, if it was."""
        return self._fault

    @property
    def stuck_seconds(self) -> float:
        """How long the device has been at what it does now; 0 where it does nothing."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_full(self) -> bool:
        """Whether there is room for no request, however small."""
        return self._queued_images >= self._max_queued_images

    @property
    def is_running(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    async def start(self) -> None:
        """Start the engine's thread and wait until it is warm; raise what its warm-up raises."""
        self._thread.start()
        await self._warm

    async def close(self, timeout_seconds: float) -> bool:
        """Compute what is queued, then stop the thread; return whether it ended in time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, timeout_seconds)
        return not self.is_running

    def check_room(self, task: ModelTask | None = None) -> None:
        """Raise Problem, overloaded, where no request has room: what its body holds need not be looked at.

        Of a task none has where one of a single image would have too much work before it, once a job was
        refused for that.
        """
        refusal = None
        if self.is_full:
            with self._changed:
                refusal = self._too_many("images", self._queued_images + 1, self._max_queued_images)
        elif task is not None and task in self._behind:
            with self._changed:
                refusal = self._too_long(task, 1)
        if refusal:
            raise self._counted(refusal)

    def seconds_behind(self, task: ModelTask) -> float:
        """Return how much more work than may wait there is before a single image of a task, or 0."""
        with self._changed:
            return max(0.0, self._seconds_before(task, 1) - self._max_queued_seconds)

    async def submit(self, task: ModelTask, rows: np.ndarray, deadline: float) -> Answer:
        """Queue rows for a task and wait for its outputs.

        Raises Problem: overloaded where the queue is full, deadline where `deadline` (time.monotonic) passes
        first, device fault where the batch fails. Cancelling it takes what still waits out of the queue.
        """
        job = Job(task, rows, deadline, self._loop.create_future())
        if refusal := self._admit(job):
            raise self._counted(refusal)
        return await self._answered(job)

    async def submit_when_room(self, task: ModelTask, rows: np.ndarray, deadline: float) -> Answer:
        """Do as `submit`, but wait for room in a full queue: for the parts of an answer already begun.

        They are taken however long what waits takes: one by one, they are no more than the answers begun.
        """
        job = Job(task, rows, deadline, self._loop.create_future())
        self._room.clear()
        while refusal := self._admit(job, may_wait_long=True):
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._room.wait()
            except TimeoutError:
                raise self._counted(refusal) from None
            self._room.clear()
        return await self._answered(job)

    def _counted(self, refusal: Refusal) -> Exception:
        self._metrics.dropped.labels("overloaded").inc()
        return refusal()

    async def _answered(self, job: Job) -> Answer:
        # Once what is ready has run: uvloop's timers come before it, also before an answer that is there.
        expire = partial(self._loop.call_soon, self._expire, job)
        expiry = self._loop.call_later(max(0.0, job.deadline - time.monotonic()), expire)
        try:
            answer = await job.future
        except asyncio.CancelledError:
            self._drop(job, "disconnected")
            self._room.set()
            raise
        finally:
            expiry.cancel()
        if isinstance(answer, Answer):
            return answer
        raise answer()

    def _expire(self, job: Job) -> None:
        if not job.future.done():
            self._drop(job, "deadline")
            self._room.set()
            waited = time.monotonic() - job.created
            detail = (
                f"no answer within {waited:.3g} seconds; the request waited in the queue or on the device"
            )
            job.future.set_result(partial(Problem, Kind.DEADLINE, detail, value=round(waited, 3)))

    def _admit(self, job: Job, *, may_wait_long: bool = False) -> Refusal | None:
        """Queue a job, or return why there is no room for it; an empty queue has room for any."""
        with self._changed:
            if self._fault is not None:
                raise Problem(Kind.DEVICE_FAULT, f"the device is lost: {self._fault}")
            if self._is_closing:
                raise Problem(Kind.NOT_READY, "the service is stopping")
            images = self._queued_images + images_in(job.rows)
            size = self._queued_bytes + bytes_in(job.rows)
            if self._queued_images and images > self._max_queued_images:
                return self._too_many("images", images, self._max_queued_images)
            if self._queued_images and size > self._max_queued_bytes:
                return self._too_many("bytes", size, self._max_queued_bytes)
            if not may_wait_long and (refusal := self._too_long(job.task, images_in(job.rows))):
                return refusal
            self._queues.setdefault(job.task, Line()).fresh.append(job)
            self._count(job.task, job.rows, 1)
            self._changed.notify()
            return None

    def _too_long(self, task: ModelTask, images: int) -> Refusal | None:
        seconds, limit = self._seconds_before(task, images), self._max_queued_seconds
        if seconds <= limit:
            self._behind.discard(task)
            return None
        self._behind.add(task)
        detail = f"{seconds:.3g} seconds of work are queued before it; the limit is {limit:g}"
        return self._overloaded(detail, round(seconds, 3), limit)

    def _seconds_before(self, task: ModelTask, images: int) -> float:
        return self._backlog.seconds_before(task, images, len(self._queues.get(task, ())))

    def _too_many(self, unit: str, value: int, limit: int) -> Refusal:
        return self._overloaded(f"{value} {unit} would be queued; the limit is {limit}", value, limit)

    def _overloaded(self, detail: str, value: float, limit: float) -> Refusal:
        wait = min(self._backlog.seconds() or 1.0, self._max_queued_seconds)
        return partial(Problem, Kind.OVERLOADED, detail, value=value, limit=limit, retry_after_seconds=wait)

    def _count(self, task: ModelTask, rows: np.ndarray, sign: Literal[1, -1]) -> None:
        images = sign * images_in(rows)
        self._backlog.count(task, images)
        self._queued_images += images
        self._queued_bytes += sign * bytes_in(rows)
        self._metrics.queued_images.set(self._queued_images)

    def _drop(self, job: Job, cause: Cause) -> None:
        """Take what waits of a job out of the budget; the job itself is skipped when its turn comes."""
        with self._changed:
            if job.dropped is None:
                job.dropped = cause
                self._metrics.dropped.labels(cause).inc()
                self._count(job.task, job.rows[job.taken :], -1)
                job.rows = np.empty(
                    (0, *job.rows.shape[1:]), job.rows.dtype
                )  # its place in the queue is light

    # The engine thread from here on.

    def _run(self) -> None:
        try:
            self._engine.warm_up()
        except Exception as error:
            self._call(self._end_warm_up, error)
            return
        self._look_at_memory(time.monotonic())
        self._call(self._end_warm_up, None)
        try:
            self._serve()
        except Exception as error:  # no memory for a list, say; nothing more is computed
            log.exception("the engine's thread has ended")
            with self._changed:
                self._running_images = 0
                jobs = self._lose(error).union(*(batch.jobs for batch, _ in self._launched))
            self._launched.clear()
            self._refuse_all(jobs, error)
        self._busy_since = None

    def _serve(self) -> None:
        launched = self._launched
        while True:
            if not launched:
                self._busy_since = None
            batch = self._take(can_wait=not launched)
            if batch is None and not launched:
                return
            self._busy_since = time.monotonic()
            if batch is not None:
                try:
                    launched.append((batch, self._engine.launch(batch.task, batch.parts)))
                except Exception as error:
                    self._fail(batch, error)
            while launched and (batch is None or len(launched) >= self._engine.depth):
                self._finish(*launched[0])
                launched.popleft()
                self._busy_since = time.monotonic()

    def _take(self, can_wait: bool) -> Batch | None:
        """Form the next batch; None where nothing is queued, after waiting only if nothing ever will be."""
        with self._changed:
            while True:
                while self._queues:
                    task = next(iter(self._queues))
                    if batch := self._form(task, self._queues.pop(task)):
                        return batch
                if not can_wait or self._is_closing:
                    return None
                self._changed.wait()

    def _form(self, task: ModelTask, line: Line) -> Batch | None:
        batch = Batch(task, started=time.monotonic())
        room = self._engine.room(task)
        share = max(1, room // len(line))
        for job in line.turns(room, batch):
            part = job.rows[job.taken : stop_of(job.rows, job.taken, min(share, room - batch.images))]
            job.taken += len(part)
            self._count(task, part, -1)
            batch.jobs.append(job)
            batch.parts.append(part)
            batch.images += images_in(part)
        if line:
            self._queues[task] = line
        self._running_images += batch.images
        return batch if batch.jobs else None

    def _finish(self, batch: Batch, pending: Pending) -> None:
        try:
            outputs = pending.result()
        except Exception as error:
            self._fail(batch, error)
            return
        ended = time.monotonic()
        batch.started = max(batch.started, self._last_ended)
        self._last_ended = ended
        seconds = ended - batch.started
        self._measure(batch, seconds)
        self._call(self._deliver, batch, outputs, seconds)
        if ended >= self._next_look:
            self._look_at_memory(ended)

    def _measure(self, batch: Batch, seconds: float) -> None:
        computed = (batch.task.model, batch.task.operation)
        self._metrics.images[computed].inc(batch.images)
        self._metrics.batches[computed].inc()
        self._metrics.batch_images.observe(batch.images)
        self._metrics.compute_seconds.observe(seconds)
        with self._changed:
            self._running_images -= batch.images
            self._backlog.measure(batch.task, batch.images, seconds)

    def _look_at_memory(self, now: float) -> None:
        # In this thread, which is the one that may wait for a device that hangs.
        self._metrics.show_memory(self._engine.memory())
        self._next_look = now + MEMORY_SECONDS

    def _fail(self, batch: Batch, error: Exception) -> None:
        is_lost = self._engine.is_lost()  # waits for the device: not under the lock
        self._last_ended = time.monotonic()
        with self._changed:
            self._running_images -= batch.images
            failed = set(batch.jobs).union(self._lose(error) if is_lost else ())
        self._refuse_all(failed, error)

    def _lose(self, error: Exception) -> set[Job]:
        """Take nothing more, and return what waits; under the lock."""
        self._fault = error.with_traceback(None)  # whose frames would keep the batch's rows
        jobs = {job for line in self._queues.values() for job in line}
        self._queues.clear()
        return jobs

    def _refuse_all(self, jobs: set[Job], error: Exception) -> None:
        cause: Cause = "fault"
        refusal = partial(Problem, Kind.DEVICE_FAULT, f"the batch failed: {error}")
        if self._fault is None and _lacks_memory(error):
            cause = "overloaded"
            refusal = partial(Problem, Kind.OVERLOADED, f"there is no memory for the batch now: {error}")
        log.error("a batch failed: %s", str(error))  # not itself: its frames have the rows
        for job in jobs:
            self._drop(job, cause)
        self._call(self._refuse, jobs, refusal)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits for the answer
            return

    # The event loop from here on.

    def _end_warm_up(self, error: Exception | None) -> None:
        if self._warm.done():  # nobody waits for it any more
            return
        if error is None:
            self._warm.set_result(None)
        else:
            self._warm.set_exception(error)

    def _deliver(self, batch: Batch, outputs: Arrays, seconds: float) -> None:
        for job in set(batch.jobs):
            job.started = job.started or batch.started
            job.compute_seconds += seconds
        start = 0
        for job, part in zip(batch.jobs, batch.parts, strict=True):
            stop = start + len(part)
            job.outputs.append(tuple(array[start:stop] for array in outputs))
            start = stop
            is_whole = sum(len(arrays[0]) for arrays in job.outputs) == len(job.rows)
            if is_whole and not job.future.done():
                try:
                    job.future.set_result(self._answer(job))
                except MemoryError:  # for this one's pieces together
                    job.future.set_result(MemoryError)
        self._room.set()

    def _answer(self, job: Job) -> Answer:
        queue_seconds = job.started - job.created
        self._metrics.queue_seconds.observe(queue_seconds)
        if len(job.outputs) == 1:
            return Answer(job.outputs[0], queue_seconds, job.compute_seconds)
        arrays = tuple(np.concatenate(pieces) for pieces in zip(*job.outputs, strict=True))
        return Answer(arrays, queue_seconds, job.compute_seconds)

    def _refuse(self, jobs: set[Job], refusal: Refusal) -> None:
        for job in jobs:
            if not job.future.done():
                job.future.set_result(refusal)
        self._room.set()
