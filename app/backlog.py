"""How long what waits for a device will take: what admission decides by, and Retry-After is told from.

What a batch takes is learned from batches as they end: until the first of an operation has, it counts for
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from app.operations import ModelTask

PAST = 0.9  # weight of what was measured before, against the next batch
MOST_TIMES = 4.0  # as long as was known a batch counts at most: the process may have been stopped meanwhile
Kind = tuple[str, str, bool]  # of tasks whose images, or their samples, cost alike


def kind_of(task: ModelTask) -> Kind:
    """Return whose batches tell what a task's take."""
    return task.model, task.operation, task.manner.takes_a_rung


class Backlog:
    """Images that wait, by task, and what a batch of each takes. Not for several threads at once."""

    def __init__(self, room: Callable[[ModelTask], int]) -> None:
        self._room = room  # images of a task's batch
        self._images: Counter[ModelTask] = Counter()
        # Seconds of a batch for each image, or sample of one, that it has room for, times those that were in
        # it; and these: the fuller a batch, the more it tells of what is to come.
        self._measured: dict[Kind, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._images)

    def count(self, task: ModelTask, images: int) -> None:
        """Add images that wait; or take some away, a negative number."""
        self._images[task] += images
        if not self._images[task]:
            del self._images[task]

    def measure(self, task: ModelTask, images: int, seconds: float) -> None:
        """Learn what a batch of so many images took."""
        weighted, weight = self._measured.get(kind_of(task), (0.0, 0.0))
        each, done = seconds / (self._room(task) * task.samples), images * task.samples
        if weight:
            each = min(each, MOST_TIMES * weighted / weight)
        self._measured[kind_of(task)] = PAST * weighted + done * each, PAST * weight + done

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
        weighted, weight = self._measured.get(kind_of(task), (0.0, 1.0))
        return count * self._room(task) * task.samples * weighted / weight
