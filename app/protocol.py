"""HTTP connections that are not waited for without end: of slow clients, and of those that do not read.

uvicorn bounds the time between requests alone. Here the head of a request, its body and the reading of its
answer have a time each, and heads a size. When the server stops, a connection is closed after an answer that
says so, or once nothing has come for a moment: a request that crosses the closing would be lost.

Requests that come together are parsed a piece at a time, and no further while one of them waits for its turn.
What asks for another protocol as well, as Java's client asks for HTTP/2, is answered in this one.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, cast

import httptools
from prometheus_client import Counter
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

Stage = Literal["idle", "head", "body"]
MAX_HEAD_BYTES = 64 << 10  # of a request's line and headers
PIECE_BYTES = 8 << 10  # parsed at once: some hundreds of requests at most
READ_BYTES = 64 << 10  # of an answer, or the rest of it, in the time that a client has to read
READING_LOOKS = 4  # in that time
LINGER_SECONDS = 1.0  # for a last request, when the server stops
_INTERIM = b"HTTP/1.1 100 "  # after which the answer is yet to begin
_TOO_LARGE = b"431 Request Header Fields Too Large"
_TOO_SLOW = b"408 Request Timeout"
_LAST_HEADERS = b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True)
class Patience:
    """How long a client is waited for, in seconds."""

    head: float  # from a connection's start, or a request's, until the request's head is there
    body: float  # from then until the body is there
    reading: float  # while less than READ_BYTES of an answer is read


def _new_parser(protocol: HttpToolsProtocol) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
    return parser


class JoinedWrites:
    """What an answer is written to: its head goes with the first of its body, in one call of the system."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        self._has_begun = False
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Hold an answer's head back, and write all else."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif self._has_begun or data.startswith(_INTERIM):
            self._transport.write(data)
        else:
            self._head, self._has_begun = data, True

    def flush(self) -> None:
        """Write a head that no body follows, where the connection is still there."""
        if self._head is not None and not self.is_closing():
            self.write(b"")

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._transport.close()


class PromptProtocol(HttpToolsProtocol):
    """Closes connections whose clients are too slow, and counts them by cause.

    `taken` is called for every connection that is made.
    """

    def __init__(
        self,
        *arguments: Any,
        patience: Patience,
        closed: Counter,
        taken: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._taken = taken
        self._seconds: dict[Stage, float] = {"head": patience.head, "body": patience.body}
        self._reading_seconds, self._closed = patience.reading, closed
        self._unparsed: deque[bytes | memoryview] = deque()  # that are yet to be parsed
        self._stage: Stage = "head"
        self._awaited: Stage = "idle"  # what the timer is for
        self._timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle  # there once the connection is
        self._read_at, self._unread_bytes = monotonic(), 0  # when the client was last seen to read
        self._unsent_bytes = 0  # at the last look
        self._head_bytes = 0
        self._is_amid_head = False
        self._is_leaving = False
        self._writes: JoinedWrites  # of the answer that is being given
        self._running: RequestResponseCycle | None = None  # now; `cycle` is of the request that came last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._taken()
        self._wait()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more, and tell what is being answered that its client has gone."""
        self._stage = "idle"
        self._wait()
        self._reading_timer.cancel()
        self._unparsed.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless a request before it waits for its turn."""
        if len(data) <= PIECE_BYTES:
            self._unparsed.append(data)
        else:
            view = memoryview(data)
            self._unparsed.extend(view[at : at + PIECE_BYTES] for at in range(0, len(view), PIECE_BYTES))
        self._parse()

    def _parse(self) -> None:
        """Parse until a request waits for its turn, and wait for what is missing."""
        while self._unparsed and not self.pipeline and not self.transport.is_closing():
            piece = self._unparsed.popleft()
            self._head_bytes += len(piece)
            if self._stage == "idle":
                self._stage = "head"
            self._feed(piece)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse("large-head", _TOO_LARGE)
        if self.transport.is_closing():
            self._unparsed.clear()
            self._stage = "idle"
        elif self._unparsed:
            self.flow.pause_reading()
        elif self._stage == "idle" and not self._is_answering:  # as it was before the request's body came
            self._wait_for_another()
        self._wait()

    def _feed(self, piece: bytes | memoryview) -> None:
        """Parse a piece, and a head that asks for another protocol, where the parser stops, without that."""
        self._unset_keepalive_if_required()
        try:
            while piece:
                try:
                    self.parser.feed_data(piece)
                    return
                except httptools.HttpParserUpgrade as stop:
                    piece = piece[stop.args[0] :]
                head = self._head_without_upgrade()
                self.parser = _new_parser(self)  # the old takes no more where it was to close
                self.parser.feed_data(head)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def _head_without_upgrade(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserInvalidMethodError("CONNECT")
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(kept))

    def _wait_for_another(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._writes = JoinedWrites(self.transport)
        cycle.transport = cast(asyncio.Transport, self._writes)
        super()._start_asgi_task(cycle, app)
        self._running = cycle
        self._note_reading()

    def on_message_begin(self) -> None:
        """Note that a request begins, also where it comes with the end of the one before it."""
        super().on_message_begin()
        self._stage, self._is_amid_head = "head", True

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        self._stage, self._head_bytes, self._is_amid_head = "body", 0, False
        self.headers = []  # for what follows the body, which nobody reads
        if self._is_leaving:
            self._make_last()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, which a chunk's size or what follows the body is not."""
        super().on_body(body)
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        """Note that the request is there."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._stage, self._head_bytes = "idle", 0

    def on_response_complete(self) -> None:
        """Note that the answer is sent, and turn to what came after its request."""
        self._writes.flush()
        is_waited_for = bool(self.pipeline)
        super().on_response_complete()
        if is_waited_for:
            self._parse()
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
        if not self._is_answering and not self._is_amid_head:  # of which each has a timer of its own
            self.transport.close()

    def resume_writing(self) -> None:
        """Note that the client reads."""
        super().resume_writing()
        self._note_reading()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, unless that would break into an answer."""
        if self._is_answering:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _note_reading(self) -> None:
        self._read_at, self._unread_bytes = monotonic(), self._unsent()

    def _unsent(self) -> int:
        """Bytes of an answer that wait for the client; none once the kernel has the last of them."""
        held_bytes = self.transport.get_write_buffer_size()
        if not held_bytes:
            return 0
        queued_bytes = array.array("i", [0])  # by the kernel, which asks for more a megabyte at a time
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued_bytes)
        return held_bytes + queued_bytes[0]

    def _look_later(self) -> None:
        self._reading_timer = self.loop.call_later(self._reading_seconds / READING_LOOKS, self._look)

    def _look(self) -> None:
        """Look whether the client reads, also after the connection's end was asked for."""
        unsent_bytes = self._unsent()
        is_longer = unsent_bytes > self._unsent_bytes  # by an answer that was written since
        self._unsent_bytes = unsent_bytes
        if not unsent_bytes or is_longer or self._unread_bytes - unsent_bytes >= READ_BYTES:
            self._note_reading()
        elif monotonic() - self._read_at >= self._reading_seconds:
            self._closed.labels("reading").inc()
            self.transport.abort()
            return
        self._look_later()

    def _wait(self) -> None:
        """Have the timer be for the stage; for none while the request waits for its turn."""
        stage = "idle" if self.pipeline else self._stage
        if stage == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if stage != "idle":
            self._timer = self.loop.call_later(self._seconds[stage], self._give_up)
        self._awaited = stage

    def _give_up(self) -> None:
        if self.transport.is_closing():  # with the rest of an answer to send
            return
        if self._stage == "head":
            self._refuse("head", _TOO_SLOW)
        else:  # whose answer, too late, the application has given
            self._closed.labels("body").inc()
            self.transport.close()

    def _refuse(self, cause: str, status: bytes) -> None:
        self._closed.labels(cause).inc()
        self._stage = "idle"
        if not self._is_answering:  # else it would break into an answer
            self.transport.write(b"HTTP/1.1 " + status + _LAST_HEADERS)
        self.transport.close()
