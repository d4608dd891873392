"""Threads with a bound on what they hold."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator

import pytest

from app.errors import Kind, Problem
from app.metrics import Metrics
from app.workers import Done, Workers

pytestmark = pytest.mark.anyio
SOON = 30.0


class Pool:
    """Workers, and a function that ends when told."""

    def __init__(self, threads: int = 1) -> None:
        self.metrics = Metrics()
        self.workers = Workers(threads, self.metrics, max_bytes=100, max_seconds=SOON)
        self.entered, self.may_end = threading.Event(), threading.Event()

    def wait(self) -> str:
        self.entered.set()
        assert self.may_end.wait(SOON)
        return "waited"

    def dropped(self, cause: str) -> float | None:
        return self.metrics.registry.get_sample_value("vae_dropped_requests_total", {"cause": cause})

    async def begin(self, size_bytes: int = 60) -> "asyncio.Task[Done[str]]":
        task = asyncio.ensure_future(self.workers.run(self.wait, "work", size_bytes, time.monotonic() + SOON))
        await asyncio.to_thread(self.entered.wait)
        return task

    async def until_idle(self) -> None:
        while self.workers.is_running:
            await asyncio.to_thread(self.workers._idle.wait, SOON)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    pool.may_end.set()
    await pool.until_idle()


async def test_a_function_s_result_comes_with_its_times(pool: Pool) -> None:
    done = await pool.workers.run(lambda: 7, "work", 1, time.monotonic() + SOON)
    assert done.found == 7
    assert done.queue_seconds >= 0
    assert done.compute_seconds > 0
    await pool.until_idle()


async def test_an_error_is_the_caller_s(pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        await pool.workers.run(lambda: 1 // 0, "work", 1, time.monotonic() + SOON)
    await pool.until_idle()


async def test_what_is_held_together_is_bounded(pool: Pool) -> None:
    first = await pool.begin()
    with pytest.raises(Problem, match="101 bytes would be held; the limit is 100") as caught:
        await pool.workers.run(lambda: 7, "work", 41, time.monotonic() + SOON)
    assert caught.value.kind is Kind.OVERLOADED
    assert pool.dropped("overloaded") == 1
    second = asyncio.ensure_future(pool.workers.run(lambda: 7, "work", 40, time.monotonic() + SOON))
    await asyncio.sleep(0)
    pool.may_end.set()
    await asyncio.gather(first, second)


def fail() -> None:
    time.sleep(0.01)
    raise ZeroDivisionError


async def test_the_work_that_waits_is_bounded(pool: Pool) -> None:
    pool.workers._max_seconds = 0.001
    with pytest.raises(ZeroDivisionError):  # which tells what a byte takes at least
        await pool.workers.run(fail, "work", 1, time.monotonic() + SOON)
    await pool.until_idle()
    first = await pool.begin(20)
    second = asyncio.ensure_future(pool.workers.run(lambda: 7, "work", 40, time.monotonic() + SOON))
    await asyncio.sleep(0)
    with pytest.raises(Problem, match=r"seconds of work wait before it; the limit is 0\.001") as caught:
        await pool.workers.run(lambda: 7, "work", 1, time.monotonic() + SOON)
    assert isinstance(caught.value.value, float)
    assert caught.value.value >= 0.4  # for 40 bytes; a busy machine sleeps longer
    assert caught.value.retry_after_seconds == 0.001
    assert pool.dropped("overloaded") == 1
    pool.may_end.set()
    await asyncio.gather(first, second)


async def test_what_runs_keeps_no_other_out_however_long_it_takes(pool: Pool) -> None:
    pool.workers._max_seconds = 0.001
    await pool.workers.run(lambda: time.sleep(0.01), "work", 1, time.monotonic() + SOON)
    await pool.until_idle()
    first = await pool.begin()
    second = asyncio.ensure_future(pool.workers.run(lambda: 7, "work", 1, time.monotonic() + SOON))
    await asyncio.sleep(0)
    pool.may_end.set()
    await asyncio.gather(first, second)


async def test_what_is_cancelled_before_its_turn_waits_no_more(pool: Pool) -> None:
    pool.workers._max_seconds = 0.001
    await pool.workers.run(lambda: time.sleep(0.01), "work", 1, time.monotonic() + SOON)
    await pool.until_idle()
    first = await pool.begin(20)
    second = asyncio.ensure_future(pool.workers.run(lambda: 7, "work", 40, time.monotonic() + SOON))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    third = asyncio.ensure_future(pool.workers.run(lambda: 7, "work", 40, time.monotonic() + SOON))
    await asyncio.sleep(0)
    pool.may_end.set()
    assert (await third).found == 7
    await first


async def test_work_that_fails_at_once_does_not_tell_that_all_of_it_is_quick(pool: Pool) -> None:
    await pool.workers.run(lambda: time.sleep(0.01), "work", 1, time.monotonic() + SOON)
    before = pool.workers._measured["work"]
    with pytest.raises(ZeroDivisionError):
        await pool.workers.run(lambda: 1 // 0, "work", 1_000_000, time.monotonic() + SOON)
    assert pool.workers._measured["work"] == before
    await pool.until_idle()


async def test_slow_work_says_nothing_of_another_kind(pool: Pool) -> None:
    pool.workers._max_seconds = 0.001
    await pool.workers.run(lambda: time.sleep(0.01), "slow work", 1, time.monotonic() + SOON)
    await pool.until_idle()
    first = await pool.begin(20)
    others = [
        asyncio.ensure_future(pool.workers.run(lambda: 7, "work", 40, time.monotonic() + SOON))
        for _ in range(2)
    ]
    await asyncio.sleep(0)
    pool.may_end.set()
    await asyncio.gather(first, *others)


async def test_one_alone_may_hold_any(pool: Pool) -> None:
    await pool.workers.run(lambda: 7, "work", 1000, time.monotonic() + SOON)


async def test_a_passed_deadline_is_a_problem_while_the_function_goes_on(pool: Pool) -> None:
    first = await pool.begin()
    with pytest.raises(Problem, match="no answer within") as caught:
        await pool.workers.run(lambda: 7, "work", 1, time.monotonic())
    assert caught.value.kind is Kind.DEADLINE
    assert pool.dropped("deadline") == 1
    assert pool.workers.is_running
    pool.may_end.set()
    assert await first
    await pool.until_idle()


async def test_what_nobody_waits_for_any_more_is_not_begun(pool: Pool) -> None:
    first = await pool.begin()
    begun = threading.Event()
    second = asyncio.ensure_future(pool.workers.run(begun.set, "work", 1, time.monotonic() + SOON))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert pool.dropped("disconnected") == 1
    pool.may_end.set()
    await first
    await pool.until_idle()
    assert not begun.is_set()


class Held:
    """Something that a weak reference can follow."""

    def size(self) -> int:
        return 7


async def test_what_nobody_waits_for_any_more_is_let_go_at_once(pool: Pool) -> None:
    first = await pool.begin()
    held = Held()
    followed = weakref.ref(held)
    second = asyncio.ensure_future(pool.workers.run(held.size, "work", 1, time.monotonic() + SOON))
    del held
    await asyncio.sleep(0)
    assert followed() is not None
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    del second
    gc.collect()
    assert followed() is None
    pool.may_end.set()
    await first


async def test_closing_takes_nothing_more_and_waits_for_what_runs(pool: Pool) -> None:
    assert await Workers(1, pool.metrics, max_bytes=100, max_seconds=SOON).close(SOON)
    first = await pool.begin()
    assert not await pool.workers.close(0.0)
    with pytest.raises(Problem, match="the service is stopping") as caught:
        await pool.workers.run(lambda: 7, "work", 1, time.monotonic() + SOON)
    assert caught.value.kind is Kind.NOT_READY
    pool.may_end.set()
    assert await pool.workers.close(SOON)
    assert (await first).found == "waited"
