"""Whatever is asked of the batcher in whatever order, every request has one answer: its own, or a refusal."""

from __future__ import annotations

import asyncio
import queue
import re
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from app.batcher import Answer, Arrays, Batcher
from app.errors import Kind, Problem
from app.metrics import DeviceMemory, Metrics
from app.operations import ModelTask, Operation

TASKS = [
    ModelTask("m", Operation.ENCODE),
    ModelTask("m", Operation.DECODE),
    ModelTask("m", Operation.SCORE, 3),
]
COLUMNS = [1, 4, 1]  # of a row of each
MAX_BATCH, MAX_IMAGES, LARGEST = 6, 10, 12
MAX_BYTES = 160  # of 5 wide rows, or of 20 others
LATE, BRIEF, SOON = 0.0, 0.005, 60.0
OF_KIND = {Kind.OVERLOADED: "overloaded", Kind.DEADLINE: "deadline", Kind.DEVICE_FAULT: "fault"}

Submit = tuple[str, int, int, float]
submits = st.tuples(
    st.sampled_from(["submit", "submit_when_room"]),
    st.integers(0, len(TASKS) - 1),
    st.integers(1, LARGEST),
    st.sampled_from([SOON, SOON, SOON, BRIEF, LATE]),
)
actions = st.lists(
    st.one_of(
        submits,
        submits,
        st.tuples(st.sampled_from(["end", "fail", "turn", "wait"])),
        st.tuples(st.just("cancel"), st.integers(0, 99)),
    ),
    max_size=40,
)


@dataclass
class Recording:
    """An engine that computes, or fails, when it is told to; it gives back what it was given."""

    depth: int
    max_batch: int = MAX_BATCH
    batches: list[tuple[ModelTask, list[np.ndarray]]] = field(default_factory=list)
    are_sound: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)

    def warm_up(self) -> None: ...

    def launch(self, task: ModelTask, parts: list[np.ndarray]) -> Launched:
        self.batches.append((task, parts))
        return Launched(self, np.concatenate(parts))

    def room(self, task: ModelTask) -> int:
        return max(1, self.max_batch // task.samples)

    def is_lost(self) -> bool:
        return False

    def memory(self) -> DeviceMemory | None:
        return None


@dataclass
class Launched:
    engine: Recording
    rows: np.ndarray

    def result(self) -> Arrays:
        if not self.engine.are_sound.get():
            raise RuntimeError("a batch that fails")
        return (self.rows, -self.rows)


@dataclass
class Story:
    """A batcher, and every request that was made of it."""

    engine: Recording
    max_queued_seconds: float
    metrics: Metrics = field(default_factory=Metrics)
    requests: list[tuple[np.ndarray, bool, asyncio.Task[Answer]]] = field(default_factory=list)
    rows: int = 0

    def __post_init__(self) -> None:
        self.batcher = Batcher(
            self.engine,
            self.metrics.of_queue("vae"),
            max_queued_images=MAX_IMAGES,
            max_queued_bytes=MAX_BYTES,
            max_queued_seconds=self.max_queued_seconds,
        )

    def submit(self, method: str, task: int, count: int, seconds: float) -> None:
        count = -(-count // COLUMNS[task])
        values = np.arange(self.rows, self.rows + count)  # of which no other request has any
        rows = np.repeat(values[:, None], COLUMNS[task], axis=1)
        self.rows += count
        answering = getattr(self.batcher, method)(TASKS[task], rows, time.monotonic() + seconds)
        self.requests.append((rows, method == "submit", asyncio.ensure_future(answering)))

    def cancel(self, number: int) -> None:
        # Not what waits for room: it is not in the queue that it would be taken out of.
        waiting = [task for _, is_queued, task in self.requests if is_queued and not task.done()]
        if waiting:
            waiting[number % len(waiting)].cancel()

    def check_limits(self) -> None:
        found = re.fullmatch(
            r"<Batcher queued (\d+) images in (\d+) jobs, running (\d+)>", repr(self.batcher)
        )
        assert found is not None
        queued, _, running = map(int, found.groups())
        assert 0 <= queued <= LARGEST  # an empty queue takes a request of any size
        assert 0 <= self.batcher._queued_bytes <= MAX_BYTES
        assert 0 <= running <= self.engine.depth * MAX_BATCH

    async def act(self, action: tuple[object, ...]) -> None:
        match action:
            case (("submit" | "submit_when_room") as method, int(task), int(count), float(seconds)):
                self.submit(str(method), task, count, seconds)
                await asyncio.sleep(0)  # or a cancellation would find nothing begun
            case ("cancel", int(number)):
                self.cancel(number)
            case ("turn",):
                await asyncio.sleep(0)
            case ("wait",):  # so that what waits, or is computed in part, is late
                await asyncio.sleep(BRIEF)
            case (kind,):
                self.engine.are_sound.put(kind == "end")

    async def end(self) -> None:
        for _ in range(self.rows + len(self.requests)):  # batches at most
            self.engine.are_sound.put(True)
        async with asyncio.timeout(SOON / 2):
            await asyncio.gather(*(task for *_, task in self.requests), return_exceptions=True)
        assert await self.batcher.close(SOON)

    def outcomes(self) -> Counter[str]:
        """Check every answer, and count what came of the requests."""
        found: Counter[str] = Counter()
        for rows, _, task in self.requests:
            if task.cancelled():
                found["disconnected"] += 1
            elif (error := task.exception()) is not None:
                assert isinstance(error, Problem), error
                found[OF_KIND[error.kind]] += 1
            else:
                same, negated = task.result().arrays
                np.testing.assert_array_equal(same, rows)
                np.testing.assert_array_equal(negated, -rows)
                found["answered"] += 1
        return found

    def dropped(self, cause: str) -> int:
        value = self.metrics.registry.get_sample_value("vae_dropped_requests_total", {"cause": cause})
        return int(value or 0)

    def check_batches(self) -> None:
        computed = [row for _, parts in self.engine.batches for part in parts for row in part[:, 0].tolist()]
        assert len(computed) == len(set(computed))  # no row twice
        for task, parts in self.engine.batches:
            assert 1 <= sum(map(len, parts)) <= max(1, MAX_BATCH // task.samples)


async def told(depth: int, max_queued_seconds: float, story_of: list[tuple[object, ...]]) -> None:
    story = Story(Recording(depth), max_queued_seconds)
    await story.batcher.start()
    for action in story_of:
        await story.act(action)
        story.check_limits()
    await story.end()
    outcomes = story.outcomes()
    for outcome in outcomes:
        event(outcome)
    assert sum(outcomes.values()) == len(story.requests)
    assert story.dropped("overloaded") == outcomes["overloaded"]
    # A client may depart between its deadline, or the fault of its batch, and its being told.
    assert story.dropped("deadline") >= outcomes["deadline"]
    assert story.dropped("fault") >= outcomes["fault"]
    causes = ("deadline", "disconnected", "fault")
    assert sum(map(story.dropped, causes)) == sum(outcomes[cause] for cause in causes)
    story.check_batches()
    assert repr(story.batcher) == "<Batcher queued 0 images in 0 jobs, running 0>"
    assert story.batcher._queued_bytes == 0
    assert not story.batcher._backlog


@pytest.mark.parametrize(("depth", "max_queued_seconds"), [(1, SOON), (2, SOON), (1, 1e-9), (2, 1e-9)])
def test_every_request_is_answered_once_with_its_own_rows_or_refused_and_counted(
    depth: int, max_queued_seconds: float
) -> None:
    @settings(deadline=None)
    @given(actions)
    def check(story_of: list[tuple[object, ...]]) -> None:
        asyncio.run(told(depth, max_queued_seconds, story_of))

    check()
