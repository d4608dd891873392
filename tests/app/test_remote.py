"""A batcher over the wire: the same answers and problems, and what happens when either end goes."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import remote
from app.batcher import Answer
from app.errors import Kind, Problem
from app.metrics import Metrics
from app.operations import ModelTask
from app.remote import EngineServer, RemoteBatcher, frame, frames
from tests.app.test_batcher import (
    DECODE,
    ENCODE,
    SOON,
    Driver,
    garbage_kept,
    refused_rows,
    started,
)

pytestmark = pytest.mark.anyio


DIGESTS = {"m": "sha256:1"}


def new_batcher(path: Path, metrics: Metrics, changes: list[bool]) -> RemoteBatcher:
    batcher = RemoteBatcher(
        path,
        DIGESTS,
        max_bytes=1 << 20,
        dropped=metrics.dropped,
        on_change=lambda: changes.append(batcher.is_away),
    )
    return batcher


class Ends:
    """Both ends of a connection, and what comes through it."""

    digests = DIGESTS

    def __init__(self, driver: Driver, path: Path) -> None:
        self.driver, self.path = driver, path
        self.metrics = Metrics()
        self.changes: list[bool] = []
        self.batcher = new_batcher(path, self.metrics, self.changes)

    async def listen(self) -> None:
        self.server = await EngineServer(self.driver.batcher, self.digests).listen(self.path)

    def dropped(self, cause: str) -> float:
        """Return how many this end has counted."""
        name = "vae_dropped_requests_total"
        return self.metrics.registry.get_sample_value(name, {"cause": cause}) or 0.0

    async def hang_up(self) -> None:
        """End the server as a process that is killed ends: its connections with it."""
        self.server.close()
        for task in asyncio.all_tasks():
            if "EngineServer._serve" in repr(task):
                task.cancel()
        self.path.unlink(missing_ok=True)

    def submit(self, rows: int, seconds: float = SOON, waits: bool = False) -> asyncio.Task[Answer]:
        values = np.arange(rows, dtype=np.float32)[:, None]
        submit = self.batcher.submit_when_room if waits else self.batcher.submit
        return asyncio.ensure_future(submit(ENCODE, values, time.monotonic() + seconds))


@asynccontextmanager
async def connected(path: Path, **limits: float) -> AsyncIterator[Ends]:
    async with started(**limits) as driver:
        ends = Ends(driver, path / "engine.sock")
        await ends.listen()
        await ends.batcher.start()
        yield ends
        assert await ends.batcher.close(1)
        ends.server.close()


async def test_frames_carry_arrays_of_any_shape() -> None:
    sent = [np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2], np.zeros((0, 4), np.uint8), np.uint8([[7]])]
    reader = asyncio.StreamReader()
    reader.feed_data(frame({"id": 1}, sent) + frame({"id": 2}) + frame({"id": 3})[:-1])
    reader.feed_eof()
    found = [pair async for pair in frames(reader)]
    assert [document for document, _ in found] == [{"id": 1}, {"id": 2}]
    for array, expected in zip(found[0][1], sent, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


async def test_answers_are_those_of_the_batcher(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        assert (ends.batcher.max_batch, ends.batcher.device) == (8, str(ends.driver.engine))
        assert not ends.batcher.is_running
        assert ends.batcher.fault is None
        first, second = ends.submit(2), ends.submit(3, waits=True)
        ends.driver.step(10)
        for job, rows in ((first, 2), (second, 3)):
            answer = await job
            expected = np.arange(rows, dtype=np.float32)[:, None]
            np.testing.assert_array_equal(answer.arrays[0], expected + 1)
            np.testing.assert_array_equal(answer.arrays[1], -expected)
            assert answer.compute_seconds > 0
            assert answer.queue_seconds >= 0
        answer = await ends.batcher.submit(DECODE, np.ones((1, 4), np.uint8), time.monotonic() + SOON)
        assert answer.arrays[0].tolist() == [[2, 2, 2, 2]]


async def test_a_full_queue_is_told_and_remembered_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(tmp_path, max_queued_images=4) as ends:
        ends.batcher.check_room()
        running = ends.submit(1)
        await ends.driver.launches()
        waiting = ends.submit(4)
        with pytest.raises(Problem, match="5 images would be queued; the limit is 4") as told:
            await ends.submit(1)
        assert (told.value.kind, told.value.value, told.value.limit) == (Kind.OVERLOADED, 5, 4)
        with pytest.raises(Problem, match="5 images would be queued"):
            ends.batcher.check_room()
        assert ends.dropped("overloaded") == 1
        monkeypatch.setattr(ends.batcher, "_full", {(): (ends.batcher._full[()][0], time.monotonic())})
        ends.batcher.check_room()
        ends.driver.step(10)
        await asyncio.gather(running, waiting)


async def test_a_task_with_too_much_work_before_it_is_remembered_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(tmp_path, max_queued_seconds=1) as ends:
        seconds = {(ENCODE, 1): 9.0}

        def seconds_before(task: ModelTask, images: int, jobs: int) -> float:
            return seconds.get((task, images), 0.0)

        monkeypatch.setattr(ends.driver.batcher._backlog, "seconds_before", seconds_before)
        with pytest.raises(Problem, match="9 seconds of work are queued before it; the limit is 1"):
            await ends.submit(1)
        with pytest.raises(Problem, match="9 seconds of work are queued before it; the limit is 1"):
            ends.batcher.check_room(ENCODE)
        assert ends.dropped("overloaded") == 1
        ends.batcher.check_room(DECODE)
        ends.batcher.check_room()
        seconds[ENCODE, 1] = 1 + 1e-9
        with pytest.raises(Problem):
            await ends.submit(1)
        await asyncio.sleep(0.001)
        ends.batcher.check_room(ENCODE)  # as long as what is too much is not worked off


async def test_a_large_request_with_too_much_work_before_it_does_not_keep_small_ones_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(tmp_path, max_queued_seconds=1) as ends:
        before = {1: 0.0, 16: 9.0}
        monkeypatch.setattr(
            ends.driver.batcher._backlog, "seconds_before", lambda task, images, jobs: before[images]
        )
        with pytest.raises(Problem, match="9 seconds of work are queued before it; the limit is 1"):
            await ends.submit(16)
        ends.batcher.check_room(ENCODE)


async def test_the_rows_of_a_refused_request_are_let_go_of_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(tmp_path, max_queued_images=4) as ends:
        engine_rows: list[weakref.ref[np.ndarray]] = []
        submit = ends.driver.batcher.submit

        def watched(task: ModelTask, rows: np.ndarray, deadline: float) -> Coroutine[Any, Any, Answer]:
            engine_rows.append(weakref.ref(rows))
            return submit(task, rows, deadline)

        monkeypatch.setattr(ends.driver.batcher, "submit", watched)
        running = ends.submit(1)
        await ends.driver.launches()
        waiting = ends.submit(4)
        await asyncio.sleep(0)
        with garbage_kept():
            refused = await refused_rows(ends.batcher, SOON)
            ends.driver.step(2)
            await asyncio.gather(running, waiting)
            await ends.driver.launches()
            ending = asyncio.ensure_future(refused_rows(ends.batcher, SOON))
            await ends.driver.launches()
            await ends.hang_up()
            ended = await ending
            assert refused() is None
            assert ended() is None
            assert engine_rows[2]() is None  # the refused one's, at the other end


async def test_a_large_request_that_is_refused_does_not_keep_small_ones_out(tmp_path: Path) -> None:
    async with connected(tmp_path, max_queued_images=4) as ends:
        running = ends.submit(1)
        await ends.driver.launches()
        waiting = ends.submit(2)
        with pytest.raises(Problem, match="5 images would be queued; the limit is 4"):
            await ends.submit(3)
        ends.batcher.check_room()
        ends.batcher.check_room(ENCODE)
        ends.driver.step(10)
        await asyncio.gather(running, waiting)


async def test_an_engine_that_does_not_read_is_sent_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(tmp_path) as ends:
        monkeypatch.setattr(ends.batcher, "_max_bytes", -1)
        with pytest.raises(
            Problem, match="0 bytes wait for the engine to read them; the limit is -1"
        ) as told:
            ends.batcher.check_room()
        assert told.value.kind is Kind.OVERLOADED
        assert ends.dropped("overloaded") == 1


async def test_a_connection_that_is_closing_is_none(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        assert ends.batcher._writer is not None
        ends.batcher._writer.transport.close()
        assert ends.batcher.is_away
        with pytest.raises(Problem, match="the engine's process has ended"):
            await ends.submit(1)
        ends.batcher._cancel(0)


async def test_an_engine_of_other_bundles_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "MISMATCH_SECONDS", 0.01)
    async with connected(tmp_path) as ends:
        await ends.hang_up()
        monkeypatch.setattr(ends, "digests", {"m": "sha256:2"})
        await ends.listen()
        while "the engine has other bundles than this process" not in caplog.text:
            await asyncio.sleep(0.01)
        assert ends.batcher.is_away
        await ends.hang_up()
        monkeypatch.setattr(ends, "digests", DIGESTS)
        await ends.listen()
        while ends.batcher.is_away:
            await asyncio.sleep(0.01)
        assert ends.changes[0] is False
        assert ends.changes[-1] is False
        assert True in ends.changes


async def test_what_nobody_waits_for_is_taken_out_of_the_queue(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        running = ends.submit(1)
        await ends.driver.launches()
        waiting = ends.submit(5)
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while not ends.driver.dropped("disconnected"):
            await asyncio.sleep(0.01)
        ends.driver.step()
        await running
        assert ends.driver.engine.batches == [(ENCODE, [1])]


async def test_the_deadline_is_kept_by_the_engine(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        with pytest.raises(Problem, match="the request waited in the queue or on the device") as told:
            await ends.submit(1, seconds=0.05)
        assert told.value.kind is Kind.DEADLINE
        ends.driver.step()


async def test_an_engine_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "OVERTIME_SECONDS", 0.05)
    monkeypatch.setattr(EngineServer, "_answer", lambda *_: asyncio.sleep(SOON))
    async with connected(tmp_path) as ends:
        with pytest.raises(Problem, match="the engine does not answer") as told:
            await ends.submit(1, seconds=0.05)
        assert told.value.kind is Kind.DEADLINE


async def test_how_long_nothing_comes_from_an_engine_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PULSE_SECONDS", 0.005)
    async with connected(tmp_path) as ends:
        answer = ends.submit(1)
        await ends.driver.launches()
        while ends.batcher.stuck_seconds < 0.1:  # of the device
            await asyncio.sleep(0.001)
        assert ends.driver.batcher.stuck_seconds >= 0.1
        ends.driver.step()
        await answer
        while ends.batcher.stuck_seconds > 0.05:
            await asyncio.sleep(0.001)
        monkeypatch.setattr(remote, "PULSE_SECONDS", SOON)
        while ends.batcher.stuck_seconds < 0.1:  # of the process
            await asyncio.sleep(0.001)
        assert ends.driver.batcher.stuck_seconds == 0
        await ends.hang_up()
        while not ends.batcher.is_away:
            await asyncio.sleep(0.001)
        assert ends.batcher.stuck_seconds == 0


async def test_readiness_is_looked_at_again_while_an_engine_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PULSE_SECONDS", 0.005)
    async with connected(tmp_path) as ends:
        looks = len(ends.changes)
        async with asyncio.timeout(SOON):
            while len(ends.changes) < looks + 3:
                await asyncio.sleep(0.001)


async def test_a_new_engine_is_not_held_to_what_was_said_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EngineServer, "_beat", lambda *_: asyncio.sleep(SOON))
    async with connected(tmp_path) as ends:
        ends.batcher._engine_stuck_seconds = 1000.0
        await ends.hang_up()
        while not ends.batcher.is_away:
            await asyncio.sleep(0.001)
        await ends.listen()
        while ends.batcher.is_away:
            await asyncio.sleep(0.001)
        assert ends.batcher.stuck_seconds < 1000


async def test_an_engine_that_ends_is_waited_for_and_found_again(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        jobs = [ends.submit(1), ends.submit(2)]
        await ends.driver.launches()
        await ends.hang_up()
        for job in jobs:
            with pytest.raises(Problem, match="the engine's process has ended") as told:
                await job
            assert told.value.kind is Kind.NOT_READY
        assert ends.dropped("fault") == 2
        assert ends.batcher.is_away
        with pytest.raises(Problem, match="and another starts"):
            await ends.submit(1)
        await ends.listen()
        while ends.batcher.is_away:
            await asyncio.sleep(0.01)
        ends.driver.step(10)
        assert len((await ends.submit(3)).arrays[0]) == 3


async def test_an_engine_without_memory_for_an_answer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def submit(*_: object) -> Answer:
        raise MemoryError

    async with connected(tmp_path) as ends:
        monkeypatch.setattr(ends.driver.batcher, "submit", submit)
        with pytest.raises(Problem, match="no memory for this request") as told:
            await ends.submit(1)
        assert told.value.kind is Kind.OVERLOADED


async def test_a_connection_that_fails_in_any_way_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Answer):
        def __init__(self, *_: object) -> None:
            raise MemoryError

    async with connected(tmp_path) as ends:
        ends.driver.step(10)
        with monkeypatch.context() as without_memory:
            without_memory.setattr(remote, "Answer", Failing)
            with pytest.raises(Problem, match="the engine's process has ended"):
                await ends.submit(1)
        while ends.batcher.is_away:
            await asyncio.sleep(0.01)
        assert len((await ends.submit(3)).arrays[0]) == 3


async def test_an_answer_that_has_begun_goes_on_with_the_next_engine(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        part = ends.submit(3, waits=True)
        await ends.driver.launches()
        await ends.hang_up()
        while not ends.batcher.is_away:
            await asyncio.sleep(0.01)
        asked_meanwhile = ends.submit(1, waits=True)
        await ends.listen()
        ends.driver.step(10)
        for job, rows in ((part, 3), (asked_meanwhile, 1)):
            np.testing.assert_array_equal((await job).arrays[0][:, 0], np.arange(rows) + 1)
        assert ends.dropped("fault") == 0


async def test_an_answer_that_has_begun_does_not_end_with_an_engine_that_is_ending(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        await ends.driver.batcher.close(0)
        with pytest.raises(Problem, match="the engine's process has ended"):
            await ends.submit(1)
        part = ends.submit(3, waits=True)
        await asyncio.sleep(0.1)
        assert not part.done()
        await ends.hang_up()
        async with started() as driver:
            ends.driver = driver
            await ends.listen()
            driver.step(10)
            assert len((await part).arrays[0]) == 3


async def test_an_answer_that_has_begun_waits_for_no_engine_beyond_its_deadline(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        part = ends.submit(1, seconds=0.3, waits=True)
        await ends.driver.launches()
        await ends.hang_up()
        with pytest.raises(Problem, match="the engine's process has ended") as told:
            await part
        assert told.value.kind is Kind.NOT_READY
        assert ends.dropped("fault") == 1
        ends.driver.step()


async def test_an_answer_that_has_begun_ends_where_its_front_end_stops(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        part = ends.submit(1, waits=True)
        await ends.driver.launches()
        await ends.batcher.close(1)
        with pytest.raises(Problem, match="the engine's process has ended"):
            await part
        ends.driver.step()


async def test_what_a_front_end_asked_for_ends_with_it(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        job = ends.submit(1)
        await ends.driver.launches()
        waiting = ends.submit(2)
        await asyncio.sleep(0.05)
        await ends.batcher.close(1)
        for asked in (job, waiting):
            with pytest.raises(Problem, match="the engine's process has ended"):
                await asked
        while ends.driver.dropped("disconnected") < 2:
            await asyncio.sleep(0.01)
        ends.driver.step(2)


async def test_what_comes_too_late_is_let_go(tmp_path: Path) -> None:
    async with connected(tmp_path) as ends:
        gone = ends.submit(1)
        await ends.driver.launches()
        ends.batcher._waiting.clear()
        ends.batcher._refuse(None, {"problem": {"kind": "DEADLINE", "detail": "late"}})
        ends.batcher._cancel(999)  # which the engine does not know either
        ends.driver.step(10)
        assert len((await ends.submit(1)).arrays[0]) == 1
        assert not gone.done()
        gone.cancel()
        answered = asyncio.get_running_loop().create_future()
        answered.set_result(None)
        ends.batcher._waiting[1000] = answered
        await ends.hang_up()
        while not ends.batcher.is_away:
            await asyncio.sleep(0.01)
        ends.batcher._cancel(1000)
        assert ends.dropped("fault") == 0


async def test_a_batcher_that_never_started_is_closed(tmp_path: Path) -> None:
    batcher = new_batcher(tmp_path / "none", Metrics(), [])
    batcher.check_room()
    assert await batcher.close(1)
