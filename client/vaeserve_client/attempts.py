"""One call's attempts: how long each may take, whether there is another, and how long to wait for it."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from http import HTTPStatus
from numbers import Real

from vaeserve_client.errors import ConnectionFailed, DeadlineExceeded, ProblemError, VaeserveError

_PHASES = ("connect", "read", "write", "pool")
_LEAST_SECONDS = 1e-3  # 0 would make a socket not wait at all, which is another error


@dataclass(frozen=True)
class Retries:
    """How often a call is tried again after a failed connection, a 429 or a 503.

    The n-th wait is random, up to `first_seconds`·2ⁿ⁻¹ and at most `most_seconds`, so that the callers whom
    one fault hit do not come back together. Where the service says Retry-After, that comes first.
    """

    count: float = math.inf  # until the deadline, so that a call outlives a restart of the service
    first_seconds: float = 0.2
    most_seconds: float = 5.0

    def wait_seconds(self, retry: int, retry_after_seconds: float | None) -> float:
        """Return the wait before a retry, counted from 1."""
        most = min(self.most_seconds, self.first_seconds * 2 ** min(retry - 1, 30))
        return (retry_after_seconds or 0.0) + random.uniform(0, most)

    def has_another(self, retry: int, error: VaeserveError) -> bool:
        """Return whether a failure is followed by a retry, counted from 1."""
        return retry <= self.count and error.is_retried


class _UntilReady(Retries):
    """Asking for health ends no process, so what may pass is always asked again."""

    def has_another(self, retry: int, error: VaeserveError) -> bool:
        return error.is_retried or is_out(error)


NO_RETRIES = Retries(count=0)
UNTIL_READY = _UntilReady(most_seconds=1.0)


def is_out(error: VaeserveError) -> bool:
    """Return whether a health call's failure says that the service is not there, or not well.

    A port that is published before its process listens accepts and hangs up; a proxy answers 502.
    """
    if isinstance(error, ProblemError):
        return error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(error, ConnectionFailed)


def checked_seconds(name: str, seconds: float) -> float:
    """Return a time; raise ValueError for what is none."""
    if not isinstance(seconds, Real) or not 0 < seconds < math.inf:
        raise ValueError(f"{name} is {seconds!r}; expected a positive number of seconds")
    return seconds


class Attempts:
    """What is left of one call's time and retries; the time begins with it."""

    def __init__(self, retries: Retries, timeout: float) -> None:
        self._retries, self._timeout = retries, checked_seconds("timeout", timeout)
        self._deadline = time.monotonic() + timeout
        self._retried = 0

    def remaining_seconds(self) -> float:
        """Return the time that is left; raise DeadlineExceeded where there is none."""
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise self.exceeded()
        return seconds

    def exceeded(self) -> DeadlineExceeded:
        """Return what is raised when the time is over."""
        return DeadlineExceeded(f"no answer within {self._timeout:g} seconds")

    def wait_seconds(self, error: VaeserveError) -> float:
        """Return how long to wait before another attempt; raise `error` where there is none.

        A wait that would pass the deadline is not begun.
        """
        self._retried += 1
        if not self._retries.has_another(self._retried, error):
            raise error
        wait = self._retries.wait_seconds(self._retried, error.retry_after_seconds)
        if time.monotonic() + wait >= self._deadline:
            raise error
        return wait

    def timeouts(self, connect_seconds: float) -> dict[str, float]:
        """Return httpx's timeouts of the next attempt."""
        return _Remaining(self._deadline, connect_seconds)


class _Remaining(dict[str, float]):
    """Timeouts that shrink: httpcore asks for one as each phase begins; none outlasts the deadline."""

    def __init__(self, deadline: float, connect_seconds: float) -> None:
        self._deadline, self._connect_seconds = deadline, connect_seconds
        super().__init__({phase: self.get(phase) for phase in _PHASES})  # for who reads them otherwise

    def get(self, name: str, default: object = None) -> float:
        seconds = max(_LEAST_SECONDS, self._deadline - time.monotonic())
        return min(seconds, self._connect_seconds) if name == "connect" else seconds
