"""HTTP connections that are not waited for without end: of slow clients, and of those that do not read.

uvicorn bounds the time between requests alone. Here the head of a request, its body and the reading of its
answer have a time each, and heads a size. When the server stops, a connection is closed after an answer that
says so, or once nothing has come for a moment: a request that crosses the closing would be lost.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Stage = Literal["idle", "head", "body"]
MAX_HEAD_BYTES = 64 << 10  # of a request's line and headers
LINGER_SECONDS = 1.0  # for a last request, when the server stops
_TOO_LARGE = b"431 Request Header Fields Too Large"
_TOO_SLOW = b"408 Request Timeout"
_LAST_HEADERS = b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True)
class Patience:
    """How long a client is waited for, in seconds."""

    head: float  # from a connection's start, or a request's, until the request's head is there
    body: float  # from then until the body is there
    reading: float  # while an answer is not read


class PromptProtocol(HttpToolsProtocol):
    """Closes connections whose clients are too slow, and counts them by cause."""

    def __init__(self, *arguments: Any, patience: Patience, closed: Counter, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seconds: dict[Stage, float] = {"head": patience.head, "body": patience.body}
        self._reading_seconds, self._closed = patience.reading, closed
        self._stage: Stage = "head"
        self._awaited: Stage = "idle"  # what the timer is for
        self._timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stage = "idle"
        self._wait()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and wait for what is missing."""
        self._head_bytes += len(data)
        if self._stage == "idle":
            self._stage = "head"
        super().data_received(data)
        if self._stage == "head" and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse("large-head", _TOO_LARGE)
        self._wait()

    def on_message_begin(self) -> None:
        """Note that a request begins, also where it comes with the end of the one before it."""
        super().on_message_begin()
        self._stage = "head"

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        super().on_headers_complete()
        self._stage = "body"
        if self._is_leaving:
            self._make_last()

    def on_message_complete(self) -> None:
        """Note that the request is there."""
        super().on_message_complete()
        self._stage, self._head_bytes = "idle", 0

    def on_response_complete(self) -> None:
        """Note that the answer is sent."""
        super().on_response_complete()
        if self._is_leaving and not self._is_answering:
            self._linger()

    def shutdown(self) -> None:
        """Close the connection after its last answer, which says so; after a moment where none is due."""
        self._is_leaving = True
        if self._is_answering:
            self._make_last()
        else:
            self._linger()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_last(self) -> None:
        if not self.cycle.response_started:  # else its head has promised that the connection is kept
            self.cycle.keep_alive = False

    def _linger(self) -> None:
        self.loop.call_later(LINGER_SECONDS, self._leave)

    def _leave(self) -> None:
        if not self._is_answering:
            self.transport.close()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._reading_timer = self.loop.call_later(self._reading_seconds, self._give_reading_up)

    def resume_writing(self) -> None:
        """Note that the client reads."""
        super().resume_writing()
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

    def _wait(self) -> None:
        """Have the timer be for the stage."""
        if self._stage == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stage != "idle":
            self._timer = self.loop.call_later(self._seconds[self._stage], self._give_up)
        self._awaited = self._stage

    def _give_up(self) -> None:
        if self._stage == "head":
            self._refuse("head", _TOO_SLOW)
        else:  # whose answer, too late, the application has given
            self._closed.labels("body").inc()
            self.transport.close()

    def _refuse(self, cause: str, status: bytes) -> None:
        self._closed.labels(cause).inc()
        if self.cycle is None or self.cycle.response_complete:  # else it would break into an answer
            self.transport.write(b"HTTP/1.1 " + status + _LAST_HEADERS)
        self.transport.close()

    def _give_reading_up(self) -> None:
        self._closed.labels("reading").inc()
        self.transport.abort()
