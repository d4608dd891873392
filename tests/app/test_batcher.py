"""The batcher driven by an engine that computes when told to."""

import asyncio
import gc
import queue
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from app.batcher import Answer, Arrays, Batcher
from app.errors import Kind, Problem
from app.metrics import DeviceMemory, Metrics
from app.operations import ModelTask, Operation
from app.remote import RemoteBatcher
from app.rows import chunk_rows

pytestmark = pytest.mark.anyio
ENCODE = ModelTask("m", Operation.ENCODE)
DECODE = ModelTask("m", Operation.DECODE)
SOON = 30.0
VAE = {"queue": "vae"}


class Stepped:
    """An engine whose batches end when the test says so; its output is its input plus one."""

    def __init__(self, depth: int = 1, max_batch: int = 8) -> None:
        self.depth, self.max_batch = depth, max_batch
        self.batches: list[tuple[ModelTask, list[int]]] = []
        self.launched: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.steps = threading.Semaphore(0)
        self.error: Exception | None = None
        self.warm_up_error: Exception | None = None
        self.may_warm_up = threading.Event()
        self.may_warm_up.set()
        self.lost = False
        self.memories: Iterator[DeviceMemory] = iter(())

    def warm_up(self) -> None:
        assert self.may_warm_up.wait(SOON)
        if self.warm_up_error is not None:
            raise self.warm_up_error

    def launch(self, task: ModelTask, parts: list[np.ndarray]) -> "Held":
        self.batches.append((task, [len(part) for part in parts]))
        self.launched.put(len(self.batches))
        return Held(self, np.concatenate(parts))

    def room(self, task: ModelTask) -> int:
        return max(1, self.max_batch // task.samples)

    def is_lost(self) -> bool:
        return self.lost

    def memory(self) -> DeviceMemory | None:
        return next(self.memories, None)


class Held:
    def __init__(self, engine: Stepped, rows: np.ndarray) -> None:
        self.engine, self.rows = engine, rows

    def result(self) -> Arrays:
        self.engine.steps.acquire()
        if self.engine.error is not None:
            raise self.engine.error
        return (self.rows + 1, -self.rows)


class Driver:
    """A batcher with its stepped engine."""

    def __init__(self, depth: int = 1, max_batch: int = 8, **limits: float) -> None:
        self.engine = Stepped(depth, max_batch)
        self.metrics = Metrics()
        values = {
            "max_queued_images": 100,
            "max_queued_bytes": 10_000,
            "max_queued_seconds": SOON,
            **limits,
        }
        self.batcher = Batcher(self.engine, self.metrics.of_queue("vae"), **values)

    def submit(
        self, rows: int, task: ModelTask = ENCODE, first: float = 0, seconds: float = SOON
    ) -> "asyncio.Task[Answer]":
        values = np.arange(first, first + rows, dtype=np.float32)[:, None]
        return asyncio.ensure_future(self.batcher.submit(task, values, time.monotonic() + seconds))

    def submit_when_room(self, rows: int, seconds: float = SOON) -> "asyncio.Task[Answer]":
        values = np.arange(rows, dtype=np.float32)[:, None]
        deadline = time.monotonic() + seconds
        return asyncio.ensure_future(self.batcher.submit_when_room(ENCODE, values, deadline))

    async def launches(self, count: int = 1) -> None:
        for _ in range(count):
            await asyncio.to_thread(self.engine.launched.get)

    def step(self, count: int = 1) -> None:
        self.engine.steps.release(count)

    def dropped(self, cause: str) -> float:
        return self.metrics.registry.get_sample_value("vae_dropped_requests_total", {"cause": cause}) or 0.0


@pytest.fixture
async def driver() -> AsyncIterator[Driver]:
    async with started() as driver:
        yield driver


class started:
    def __init__(self, depth: int = 1, **limits: float) -> None:
        self.arguments = (depth, limits)

    async def __aenter__(self) -> Driver:
        self.driver = Driver(self.arguments[0], **self.arguments[1])
        await self.driver.batcher.start()
        return self.driver

    async def __aexit__(self, *_: object) -> None:
        self.driver.step(1000)
        assert await self.driver.batcher.close(SOON)


async def test_a_lone_request_runs_at_once(driver: Driver) -> None:
    answer = driver.submit(2)
    await driver.launches()
    assert repr(driver.batcher) == "<Batcher queued 0 images in 0 jobs, running 2>"
    driver.step()
    plus_one, negated = (await answer).arrays
    assert plus_one.tolist() == [[1.0], [2.0]]
    assert negated.tolist() == [[0.0], [-1.0]]
    assert repr(driver.batcher) == "<Batcher queued 0 images in 0 jobs, running 0>"


async def test_what_waits_while_a_batch_runs_is_the_next_batch(driver: Driver) -> None:
    first = driver.submit(1)
    await driver.launches()
    others = [driver.submit(2, first=10 * i) for i in range(3)]
    await asyncio.sleep(0)
    assert repr(driver.batcher) == "<Batcher queued 6 images in 3 jobs, running 1>"
    driver.step(2)
    answers = await asyncio.gather(first, *others)
    assert driver.engine.batches == [(ENCODE, [1]), (ENCODE, [2, 2, 2])]
    assert [answer.arrays[0][0, 0] for answer in answers] == [1, 1, 11, 21]


async def test_a_large_request_shares_every_batch_with_the_small_ones(driver: Driver) -> None:
    large = driver.submit(20)
    await driver.launches()
    small = driver.submit(3, first=100)
    await asyncio.sleep(0)
    driver.step(2)
    assert (await small).arrays[0].tolist() == [[101.0], [102.0], [103.0]]
    assert not large.done()
    driver.step()
    assert (await large).arrays[0][:, 0].tolist() == list(range(1, 21))
    assert driver.engine.batches == [(ENCODE, [8]), (ENCODE, [4, 3, 1]), (ENCODE, [7])]


async def test_a_large_request_goes_on_however_many_small_ones_come(driver: Driver) -> None:
    small = [driver.submit(1) for _ in range(8)]
    await driver.launches()
    large = driver.submit(3)
    small += [driver.submit(1) for _ in range(60)]
    await asyncio.sleep(0)
    for _ in range(3):
        driver.step()
        await driver.launches()
    driver.step()
    assert len((await large).arrays[0]) == 3
    assert not all(request.done() for request in small)
    driver.step(10)
    await asyncio.gather(*small)


async def test_a_small_request_goes_before_large_ones_that_are_begun(driver: Driver) -> None:
    large = [driver.submit(10) for _ in range(9)]
    for _ in range(3):
        await driver.launches()
        driver.step()
    await driver.launches()
    small = driver.submit(1)
    await asyncio.sleep(0)
    driver.step()
    await driver.launches()
    driver.step()
    await small
    assert sum(request.done() for request in large) < 3
    driver.step(30)
    await asyncio.gather(*large)


async def test_chunks_as_large_as_a_batch_leave_every_other_one_to_small_requests(driver: Driver) -> None:
    def chunks(count: int, images: int) -> asyncio.Task[Answer]:
        rows = chunk_rows([np.zeros(images)] * count)
        return asyncio.ensure_future(driver.batcher.submit(ENCODE, rows, time.monotonic() + SOON))

    large = chunks(5, images=8)
    await driver.launches()
    small = [chunks(1, images=1) for _ in range(20)]
    await asyncio.sleep(0)
    for _ in range(4):
        driver.step()
        await driver.launches()
    assert [len(sizes) for _, sizes in driver.engine.batches] == [1, 1, 8, 1, 8]
    driver.step(20)
    await asyncio.gather(large, *small)


@pytest.mark.parametrize("room", [1, 2, 3])
async def test_large_and_small_requests_both_go_on_in_the_smallest_batches(room: int) -> None:
    async with started(max_batch=room) as driver:
        large = driver.submit(4)
        small = [driver.submit(1) for _ in range(40)]
        await asyncio.sleep(0)
        driver.step(8)
        await large
        done = sum(request.done() for request in small)
        assert 3 <= done <= 8 * room - 4
        driver.step(40)
        await asyncio.gather(*small)


async def test_tasks_take_turns_and_never_share_a_batch(driver: Driver) -> None:
    running = driver.submit(1)
    await driver.launches()
    waiting = [driver.submit(1, task) for task in (ENCODE, DECODE, ENCODE, DECODE)]
    await asyncio.sleep(0)
    driver.step(3)
    await asyncio.gather(running, *waiting)
    assert driver.engine.batches == [(ENCODE, [1]), (ENCODE, [1, 1]), (DECODE, [1, 1])]


async def test_a_deep_engine_gets_the_next_batch_while_one_computes() -> None:
    async with started(depth=2) as driver:
        answer = driver.submit(16)
        await driver.launches(2)  # neither has ended
        driver.step(2)
        await answer


async def test_images_with_many_samples_run_in_small_batches(driver: Driver) -> None:
    scored, absurd = ModelTask("m", Operation.SCORE, 4), ModelTask("m", Operation.SCORE, 1000)
    driver.step(5)
    await driver.submit(5, scored)
    await driver.submit(2, absurd)
    assert [sizes for _, sizes in driver.engine.batches] == [[2], [2], [1], [1], [1]]


@pytest.mark.parametrize(
    ("limits", "detail"),
    [
        ({"max_queued_images": 5}, "6 images would be queued; the limit is 5"),
        ({"max_queued_bytes": 20}, "24 bytes would be queued; the limit is 20"),
    ],
)
async def test_a_full_queue_refuses_at_once(limits: dict[str, int], detail: str) -> None:
    async with started(**limits) as driver:
        running = driver.submit(1)
        await driver.launches()
        waiting = driver.submit(1)
        with pytest.raises(Problem, match=detail) as caught:
            await driver.submit(5)
        assert caught.value.kind is Kind.OVERLOADED
        assert driver.dropped("overloaded") == 1
        driver.step(2)
        await asyncio.gather(running, waiting)


async def test_more_work_than_may_wait_is_refused_at_once() -> None:
    async with started(max_queued_seconds=1e-9) as driver:
        driver.step()
        await driver.submit(1)  # from which it is known that a batch takes longer
        running = driver.submit(1)
        await driver.launches(2)
        large = driver.submit(16)
        small = driver.submit(1)  # has its share of the next batch
        await asyncio.sleep(0)
        with pytest.raises(
            Problem, match="seconds of work are queued before it; the limit is 1e-09"
        ) as caught:
            await driver.submit(16)
        assert caught.value.kind is Kind.OVERLOADED
        assert (driver.dropped("overloaded"), driver.dropped("deadline")) == (1, 0)
        begun = driver.submit_when_room(16)  # of which others are done
        await asyncio.sleep(0)
        assert "queued 33 images" in repr(driver.batcher)
        driver.step(10)
        await asyncio.gather(running, large, small, begun)
        await driver.submit(16)


async def test_a_task_that_is_behind_has_room_for_none_until_it_has_for_one_image() -> None:
    async with started(max_queued_seconds=1e-9) as driver:
        driver.step()
        await driver.submit(1)
        running = driver.submit(1)
        await driver.launches(2)
        waiting = [driver.submit(16)]
        await asyncio.sleep(0)
        with pytest.raises(Problem):
            await driver.submit(16)
        driver.batcher.check_room(ENCODE)  # a single image has its share of the next batch
        assert driver.batcher.seconds_behind(ENCODE) == 0
        waiting += [driver.submit(1) for _ in range(20)]
        with pytest.raises(Problem):
            await driver.submit(1)
        assert driver.batcher.seconds_behind(ENCODE) > 0
        assert driver.batcher.seconds_behind(DECODE) >= 0
        dropped = driver.dropped("overloaded")
        with pytest.raises(Problem, match="seconds of work are queued before it; the limit is 1e-09"):
            driver.batcher.check_room(ENCODE)
        assert driver.dropped("overloaded") == dropped + 1
        driver.batcher.check_room(DECODE)
        driver.batcher.check_room()
        driver.step(30)
        await asyncio.gather(running, *waiting, return_exceptions=True)
        driver.batcher.check_room(ENCODE)


async def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    async with started(max_queued_images=5, max_queued_bytes=20) as driver:
        driver.step(1)
        assert len((await driver.submit(6)).arrays[0]) == 6


async def test_retry_after_is_the_time_the_queue_needs() -> None:
    async with started(max_queued_images=10) as driver:
        first = driver.submit(1)
        await driver.launches()
        driver.step()
        await first
        running = driver.submit(1)
        await driver.launches()
        waiting = driver.submit(10)
        with pytest.raises(Problem) as caught:
            await driver.submit(1)
        assert caught.value.retry_after_seconds == pytest.approx(10 * first.result().compute_seconds)
        driver.step(3)
        await asyncio.gather(running, waiting)


async def test_a_deadline_answers_the_request_and_frees_its_place(driver: Driver) -> None:
    running = driver.submit(1)
    await driver.launches()
    late = driver.submit(4, seconds=0.0)
    with pytest.raises(Problem, match="no answer within") as caught:
        await late
    assert caught.value.kind is Kind.DEADLINE
    assert repr(driver.batcher) == "<Batcher queued 0 images in 1 jobs, running 1>"
    assert driver.dropped("deadline") == 1
    driver.step(2)
    await running
    await driver.submit(1)
    assert [sizes for _, sizes in driver.engine.batches] == [[1], [1]]


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Have nothing looked for that refers to itself."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def refused_rows(batcher: Batcher | RemoteBatcher, seconds: float) -> weakref.ref[np.ndarray]:
    """Return what tells whether the rows of a request are still there, once it has been refused."""
    rows = np.zeros((4, 1), np.float32)
    try:
        await batcher.submit(ENCODE, rows, time.monotonic() + seconds)
    except Problem:  # which pytest.raises would keep
        return weakref.ref(rows)
    raise AssertionError("it was answered")


async def test_the_rows_of_an_answered_request_are_let_go_of_with_it(driver: Driver) -> None:
    async def ask() -> weakref.ref[np.ndarray]:
        rows = np.zeros((4, 1), np.float32)
        await driver.batcher.submit(ENCODE, rows, time.monotonic() + SOON)
        return weakref.ref(rows)

    with garbage_kept():
        driver.step()
        rows = await ask()
        await driver.batcher.close(SOON)  # whose thread has the last batch
        assert rows() is None


async def test_the_rows_of_a_refused_request_are_let_go_of_with_it() -> None:
    async with started(max_queued_images=4) as driver:
        running = driver.submit(1)
        await driver.launches()
        with garbage_kept():
            late = await refused_rows(driver.batcher, 0.0)
            waiting = driver.submit(4)
            await asyncio.sleep(0)
            refused = await refused_rows(driver.batcher, SOON)
            driver.step(2)
            await asyncio.gather(running, waiting)
            driver.engine.error = RuntimeError("fault")
            driver.step()
            failed = await refused_rows(driver.batcher, SOON)
            driver.engine.error = None
            await driver.batcher.close(SOON)
            assert late() is None
            assert refused() is None
            assert failed() is None


async def test_a_device_that_is_lost_keeps_no_rows() -> None:
    async with started() as driver:
        driver.engine.lost, driver.engine.error = True, RuntimeError("CUDA error")
        with garbage_kept():
            driver.step()
            rows = await refused_rows(driver.batcher, SOON)
            driver.engine.error = None  # which the test itself keeps
            await driver.batcher.close(SOON)
            assert rows() is None


async def test_an_answer_in_the_turn_of_its_deadline_is_given(driver: Driver) -> None:
    answer = driver.submit(1, seconds=1.0)
    await driver.launches()
    driver.step()
    time.sleep(1.1)  # so that the loop finds the batch ended and the deadline passed, both at once
    assert len((await answer).arrays[0]) == 1
    assert driver.dropped("deadline") == 0


async def test_a_departed_client_is_not_computed(driver: Driver) -> None:
    running = driver.submit(1)
    await driver.launches()
    departed, staying = driver.submit(5), driver.submit(2)
    await asyncio.sleep(0)
    departed.cancel()
    await asyncio.gather(departed, return_exceptions=True)
    driver.step(2)
    await asyncio.gather(running, staying)
    assert [sizes for _, sizes in driver.engine.batches] == [[1], [2]]
    assert driver.dropped("disconnected") == 1


async def test_a_client_that_departs_between_parts_costs_no_more_parts(driver: Driver) -> None:
    large = driver.submit(20)
    await driver.launches()
    large.cancel()
    await asyncio.gather(large, return_exceptions=True)
    assert repr(driver.batcher) == "<Batcher queued 0 images in 1 jobs, running 8>"
    driver.step(2)
    await driver.submit(1)
    assert [sizes for _, sizes in driver.engine.batches] == [[8], [1]]


async def test_an_answer_that_there_is_no_memory_for_fails_its_own_request_alone(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def concatenate(*_: object, **__: object) -> None:
        raise MemoryError

    large = driver.submit(10)
    await driver.launches()
    small = driver.submit(1)
    while "queued 3 images" not in repr(driver.batcher):
        await asyncio.sleep(0)
    driver.step()
    await driver.launches()
    assert driver.engine.batches[1] == (ENCODE, [2, 1])
    monkeypatch.setattr(np, "concatenate", concatenate)
    driver.step()
    with pytest.raises(MemoryError):
        await large
    assert (await small).arrays[0].tolist() == [[1]]


async def test_a_failed_batch_fails_its_requests_and_no_others(driver: Driver) -> None:
    failing = driver.submit(12)
    await driver.launches()
    other = driver.submit(1, DECODE)
    await asyncio.sleep(0)
    driver.engine.error = RuntimeError("out of order")
    driver.step()
    with pytest.raises(Problem, match="the batch failed: out of order") as caught:
        await failing
    assert caught.value.kind is Kind.DEVICE_FAULT
    driver.engine.error = None
    driver.step()
    await other
    assert driver.batcher.fault is None
    assert driver.dropped("fault") == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("of the host"),
        torch.OutOfMemoryError("of the device"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."),
    ],
)
async def test_a_batch_that_there_is_no_memory_for_may_be_asked_for_again(
    driver: Driver, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    driver.engine.error = error
    driver.step()
    with pytest.raises(Problem, match="there is no memory for the batch now: ") as caught:
        await driver.submit(3)
    assert caught.value.kind is Kind.OVERLOADED
    assert (driver.dropped("overloaded"), driver.dropped("fault")) == (1, 0)
    assert f"a batch failed: {error}" in caplog.text
    assert repr(driver.batcher) == "<Batcher queued 0 images in 0 jobs, running 0>"
    assert driver.batcher.fault is None
    driver.engine.error = None
    driver.step()
    await driver.submit(3)


@pytest.mark.parametrize("depth", [1, 2])
async def test_an_engine_s_thread_that_ends_is_a_device_that_is_lost(
    depth: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def measure(*_: object) -> None:
        raise MemoryError("for a list")

    async with started(depth) as driver:
        monkeypatch.setattr(driver.batcher, "_measure", measure)
        requests = [driver.submit(4 * 8)]
        await driver.launches(depth)
        requests.append(driver.submit(1, DECODE))
        await asyncio.sleep(0)
        driver.step()
        for request in requests:
            with pytest.raises(Problem, match="for a list") as caught:
                await request
            assert caught.value.kind is Kind.DEVICE_FAULT
        assert str(driver.batcher.fault) == "for a list"
        assert "the engine's thread has ended" in caplog.text
        assert repr(driver.batcher) == "<Batcher queued 0 images in 0 jobs, running 0>"
        with pytest.raises(Problem, match="the device is lost"):
            await driver.submit(1)


async def test_how_long_the_device_has_been_at_it_is_known(driver: Driver) -> None:
    assert driver.batcher.stuck_seconds == 0
    answer = driver.submit(1)
    await driver.launches()
    await asyncio.sleep(0.02)
    assert 0.02 <= driver.batcher.stuck_seconds < SOON
    driver.step()
    await answer
    while driver.batcher.stuck_seconds:
        await asyncio.sleep(0.001)


async def test_a_departed_client_is_not_counted_again_when_its_batch_fails(driver: Driver) -> None:
    departed, staying = driver.submit(1), driver.submit(1, DECODE)
    await driver.launches()
    departed.cancel()
    await asyncio.gather(departed, return_exceptions=True)
    driver.engine.error = RuntimeError("fault")
    driver.step(2)
    with pytest.raises(Problem, match="fault"):
        await staying
    assert (driver.dropped("disconnected"), driver.dropped("fault")) == (1, 1)


async def test_a_lost_device_answers_everyone_and_takes_no_more(driver: Driver) -> None:
    requests = [driver.submit(1)]
    await driver.launches()
    requests += [driver.submit(1), driver.submit(1, DECODE)]
    await asyncio.sleep(0)
    driver.engine.lost, driver.engine.error = True, RuntimeError("CUDA error")
    driver.step()
    for request in requests:
        with pytest.raises(Problem, match="CUDA error"):
            await request
    with pytest.raises(Problem, match="the device is lost: CUDA error"):
        await driver.submit(1)
    assert str(driver.batcher.fault) == "CUDA error"
    assert repr(driver.batcher) == "<Batcher queued 0 images in 0 jobs, running 0>"


async def test_an_engine_that_fails_to_launch_fails_the_batch(driver: Driver) -> None:
    def refuse(task: ModelTask, parts: list[np.ndarray]) -> Held:
        raise RuntimeError("no kernel")

    driver.engine.launch = refuse  # type: ignore[method-assign]
    with pytest.raises(Problem, match="the batch failed: no kernel"):
        await driver.submit(1)


async def test_parts_of_a_begun_answer_wait_for_room() -> None:
    async with started(max_queued_images=4) as driver:
        running = driver.submit(1)
        await driver.launches()
        filling = driver.submit(4)
        await asyncio.sleep(0)
        waiting = driver.submit_when_room(2)
        await asyncio.sleep(0)
        assert not waiting.done()
        driver.step(3)
        await asyncio.gather(running, filling)
        assert (await waiting).arrays[0].tolist() == [[1.0], [2.0]]
        assert driver.dropped("overloaded") == 0


@pytest.mark.parametrize("seconds", [0.05, SOON], ids=["deadline", "disconnected"])
async def test_parts_get_the_room_of_a_request_that_is_dropped(seconds: float) -> None:
    async with started(max_queued_images=4) as driver:
        running = driver.submit(1)
        await driver.launches()
        dropped = driver.submit(4, seconds=seconds)
        await asyncio.sleep(0)
        waiting = driver.submit_when_room(2)
        await asyncio.sleep(0)
        if seconds == SOON:
            dropped.cancel()
        await asyncio.gather(dropped, return_exceptions=True)
        while "queued 2 images" not in repr(driver.batcher):
            await asyncio.sleep(0)
        driver.step(2)
        await asyncio.gather(running, waiting)


async def test_parts_that_find_no_room_in_time_are_refused_and_counted_once() -> None:
    async with started(max_queued_images=2) as driver:
        running = driver.submit(1)
        await driver.launches()
        waiting = driver.submit(1)
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await driver.submit_when_room(2, seconds=0.05)
        assert caught.value.kind is Kind.OVERLOADED
        assert driver.dropped("overloaded") == 1
        driver.step(2)
        await asyncio.gather(running, waiting)


async def test_closing_computes_what_waits_and_takes_no_more() -> None:
    driver = Driver()
    await driver.batcher.start()
    requests = [driver.submit(5), driver.submit(5)]
    await driver.launches()
    closing = asyncio.ensure_future(driver.batcher.close(SOON))
    await asyncio.sleep(0)
    with pytest.raises(Problem, match="the service is stopping"):
        await driver.submit(1)
    driver.step(10)
    assert await closing
    assert [len((await request).arrays[0]) for request in requests] == [5, 5]


async def test_closing_does_not_wait_for_a_device_that_hangs() -> None:
    driver = Driver()
    await driver.batcher.start()
    request = driver.submit(1)
    await driver.launches()
    assert not await driver.batcher.close(0.01)
    driver.step()
    await request


async def test_a_failed_warm_up_is_raised_by_start() -> None:
    driver = Driver()
    driver.engine.warm_up_error = RuntimeError("no memory for graphs")
    with pytest.raises(RuntimeError, match="no memory for graphs"):
        await driver.batcher.start()


async def test_a_warm_up_that_nobody_waits_for_any_more_ends_in_peace() -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    driver = Driver()
    driver.engine.may_warm_up.clear()
    starting = asyncio.ensure_future(driver.batcher.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    driver.engine.may_warm_up.set()
    assert await driver.batcher.close(SOON)
    await asyncio.sleep(0)
    assert faults == []


async def test_times_and_sizes_are_measured(driver: Driver) -> None:
    driver.step(2)
    answer = await driver.submit(3)
    assert answer.queue_seconds >= 0
    assert answer.compute_seconds > 0
    value = driver.metrics.registry.get_sample_value
    assert value("vae_images_total", {"model": "m", "operation": "encode"}) == 3
    assert value("vae_batch_images_sum", VAE) == 3
    assert value("vae_queue_duration_seconds_count", VAE) == 1
    assert value("vae_compute_duration_seconds_count", VAE) == 1


def used_memory(driver: Driver) -> float | None:
    name, labels = "vae_device_memory_used_bytes", {"device": "gpu"}
    return driver.metrics.registry.get_sample_value(name, labels)


async def test_the_memory_of_the_device_is_looked_at_after_the_warm_up_and_between_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.batcher.MEMORY_SECONDS", 0.0)
    driver = Driver()
    driver.engine.memories = iter([DeviceMemory("gpu", 8, used, 2, 1) for used in (3, 4, 5)])
    await driver.batcher.start()
    assert used_memory(driver) == 3
    for _ in range(3):
        driver.step()
        await driver.submit(1)
    assert await driver.batcher.close(SOON)
    assert used_memory(driver) == 5  # the last it could tell


async def test_the_memory_of_the_device_is_not_looked_at_after_every_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.batcher.MEMORY_SECONDS", float("inf"))
    driver = Driver()
    driver.engine.memories = iter([DeviceMemory("gpu", 8, 3, 2, 1), DeviceMemory("gpu", 8, 4, 2, 1)])
    await driver.batcher.start()
    driver.step()
    await driver.submit(1)
    assert await driver.batcher.close(SOON)
    assert used_memory(driver) == 3


async def test_the_time_of_a_batch_counts_once_for_a_request_with_several_parts_in_it(driver: Driver) -> None:
    large = driver.submit(20)
    await driver.launches()
    small = driver.submit(3)
    await asyncio.sleep(0)
    driver.step(3)
    answer, _ = await asyncio.gather(large, small)
    assert (ENCODE, [4, 3, 1]) in driver.engine.batches
    all_batches = driver.metrics.registry.get_sample_value("vae_compute_duration_seconds_sum", VAE)
    assert answer.compute_seconds == pytest.approx(all_batches)


async def test_batches_in_flight_together_share_no_time() -> None:
    async with started(depth=2) as driver:
        began = time.monotonic()
        answer = driver.submit(16)
        await driver.launches(2)
        driver.step(2)
        assert (await answer).compute_seconds <= time.monotonic() - began


async def test_the_device_is_asked_whether_it_is_lost_while_requests_can_still_be_dropped(
    driver: Driver,
) -> None:
    seen: list[str] = []

    def is_lost() -> bool:
        seen.append(repr(driver.batcher))  # would hang if the lock were held
        return False

    driver.engine.is_lost = is_lost  # type: ignore[method-assign]
    driver.engine.error = RuntimeError("fault")
    driver.step()
    with pytest.raises(Problem, match="fault"):
        await driver.submit(1)
    assert seen == ["<Batcher queued 0 images in 0 jobs, running 1>"]


def test_an_answer_for_a_closed_loop_is_dropped() -> None:
    async def leave() -> Driver:
        driver = Driver()
        await driver.batcher.start()
        driver.submit(1)
        await driver.launches()
        return driver

    driver = asyncio.run(leave())
    driver.step()
    with driver.batcher._changed:
        driver.batcher._is_closing = True
        driver.batcher._changed.notify()
    driver.batcher._thread.join(SOON)
    assert not driver.batcher._thread.is_alive()
