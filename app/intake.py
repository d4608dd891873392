"""Bodies on their way in: how many bytes of them all requests together may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import Kind, Problem
from app.metrics import Metrics


class Intake:
    """The bytes of bodies that are being received or parsed. For the event loop's thread alone."""

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._max_bytes, self._metrics = max_bytes, metrics
        self.held_bytes = 0

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Give a function that a request tells of the bytes it received; they count until the block ends.

        It raises Problem, overloaded, where there is no room for them. A body that is alone always has room.
        """
        own_bytes = 0

        def admit(count: int) -> None:
            nonlocal own_bytes
            wanted_bytes = self.held_bytes + count
            if wanted_bytes > self._max_bytes and self.held_bytes > own_bytes:
                self._metrics.dropped.labels("overloaded").inc()
                detail = f"{wanted_bytes} bytes of bodies would be held; the limit is {self._max_bytes}"
                raise Problem(Kind.OVERLOADED, detail, value=wanted_bytes, limit=self._max_bytes)
            self.held_bytes, own_bytes = wanted_bytes, own_bytes + count

        try:
            yield admit
        finally:
            self.held_bytes -= own_bytes
