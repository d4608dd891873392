"""How long what waits for a device will take: what admission decides by, and Retry-After is told from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from app.operations import ModelTask

PAST = 0.9  # weight of the past in the running seconds of a batch
MAX_TASKS = 1024  # whose batches are remembered


class Backlog:
    """Images that wait, by task, and what a batch of each takes. Not for several threads at once."""

    def __init__(self, room: Callable[[ModelTask], int]) -> None:
        self._room = room  # images of a task's batch
        self._images: Counter[ModelTask] = Counter()
        self._batch_seconds: dict[ModelTask, float] = {}  # the last measured is the last

    def count(self, task: ModelTask, images: int) -> None:
        """Add images that wait; or take some away, a negative number."""
        self._images[task] += images
        if not self._images[task]:
            del self._images[task]

    def measure(self, task: ModelTask, seconds: float) -> None:
        """Learn what a batch of a task took."""
        past = self._batch_seconds.pop(task, seconds)
        self._batch_seconds[task] = PAST * past + (1 - PAST) * seconds
        if len(self._batch_seconds) > MAX_TASKS:
            del self._batch_seconds[next(iter(self._batch_seconds))]

    def seconds(self) -> float:
        """Return how long the device needs for all that waits, as far as its batches were measured."""
        return sum(self._turns(task, -(-images // self._room(task))) for task, images in self._images.items())

    def seconds_before(self, task: ModelTask, images: int, jobs: int) -> float:
        """Return how long a job of so many images would wait behind the jobs of its task, and all others.

        Tasks take turns at the device, a batch each, and the jobs of a task get equal shares of a batch.
        """
        turns = min(self._images[task], jobs * images) // self._room(task)
        return self._turns(task, turns) + sum(
            self._turns(other, min(turns + 1, -(-waiting // self._room(other))))
            for other, waiting in self._images.items()
            if other != task
        )

    def _turns(self, task: ModelTask, count: int) -> float:
        return count * self._batch_seconds.get(task, 0.0)
