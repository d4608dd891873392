"""How long what waits for a device will take: what admission decides by, and Retry-After is told from.

What a batch takes is learned from batches as they end: until the first of an operation has, it counts for
nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from app.operations import ModelTask

PAST = 0.9  # weight of what was measured before, against the next full batch
MOST_TIMES = 4.0  # as long as a full batch one counts at most: the process may have been stopped meanwhile
LEAST_SPREAD = 1e-3  # of the sizes that were measured, squared: with less, nothing tells a batch's own part
Kind = tuple[str, str, bool]  # of tasks whose images, or their samples, cost alike


def kind_of(task: ModelTask) -> Kind:
    """Return whose batches tell what a task's take."""
    return task.model, task.operation, task.manner.takes_a_rung


class Cost:
    """Seconds of a batch: a part of its own and one for each of its images, or samples of them.

    A line through what was measured, by least squares; the fuller a batch, the more it tells, and the more of
    what was measured before it is forgotten.
    """

    def __init__(self) -> None:
        self._weight = self._size = self._seconds = self._size_squared = self._size_seconds = 0.0
        self._own = self._each = 0.0

    def of(self, size: int) -> float:
        """Return the seconds of a batch of so many images, or samples of them."""
        return self._own + self._each * size if size else 0.0

    def measure(self, size: int, full: int, seconds: float) -> None:
        """Learn what a batch of `size` took, where `full` is the most that its task has in one."""
        weight = min(1.0, size / full)
        if self._seconds:
            seconds = min(seconds, MOST_TIMES * self.of(max(size, full)))
        kept = PAST**weight
        self._weight = kept * self._weight + weight
        self._size = kept * self._size + weight * size
        self._seconds = kept * self._seconds + weight * seconds
        self._size_squared = kept * self._size_squared + weight * size**2
        self._size_seconds = kept * self._size_seconds + weight * size * seconds
        self._fit()

    def _fit(self) -> None:
        most = self._seconds / self._size  # where a batch has no part of its own
        known = self._weight * self._size_squared
        spread = known - self._size**2
        slope = (self._weight * self._size_seconds - self._size * self._seconds) / spread if spread else most
        self._each = min(max(slope, 0.0), most) if spread > LEAST_SPREAD * known else most
        self._own = max(0.0, (self._seconds - self._each * self._size) / self._weight)


class Backlog:
    """Images that wait, by task, and what a batch of each takes. Not for several threads at once."""

    def __init__(self, room: Callable[[ModelTask], int]) -> None:
        self._room = room  # images of a task's batch
        self._images: Counter[ModelTask] = Counter()
        self._costs: defaultdict[Kind, Cost] = defaultdict(Cost)

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
        full = self._room(task) * task.samples
        self._costs[kind_of(task)].measure(images * task.samples, full, seconds)

    def seconds(self) -> float:
        """Return how long the device needs for all that waits, as far as its batches were measured."""
        return sum(self._seconds(task, images) for task, images in self._images.items())

    def seconds_before(self, task: ModelTask, images: int, jobs: int) -> float:
        """Return how long a job of so many images would wait behind the jobs of its task, and all others.

        Tasks take turns at the device, a batch each, and the jobs of a task get equal shares of a batch. The
        longest of these batches does not count: to wait for one is the least that a job may have to, however
        long they are.
        """
        room = self._room(task)
        turns = min(self._images[task], jobs * images) // room
        seconds, longest = self._seconds(task, turns * room), self._seconds(task, min(turns, 1) * room)
        for other, waiting in self._images.items():
            if other != task:
                room = self._room(other)
                seconds += self._seconds(other, min(waiting, (turns + 1) * room))
                longest = max(longest, self._seconds(other, min(waiting, room)))
        return seconds - longest

    def _seconds(self, task: ModelTask, images: int) -> float:
        """Return how long batches of so many images of a task take."""
        room, cost = self._room(task), self._costs[kind_of(task)]
        batches, rest = divmod(images, room)
        return batches * cost.of(room * task.samples) + cost.of(rest * task.samples)
