"""Clients that send slowly or do not read: dropped in time, counted, and no trouble for the others."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from prometheus_client import Counter
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from app.protocol import MAX_HEAD_BYTES, PIECE_BYTES, READ_BYTES, JoinedWrites, Patience, PromptProtocol
from app.server import Server
from tests.app.test_routes import npy
from tests.app.test_server import gate  # noqa: F401
from tests.servers import Gate, Running, running
from tests.waiting import eventually

HEAD = b"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\n"
ASKING = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def hasty(bundle_folder: Path) -> Iterator[Running]:
    with running(bundle_folder, head_seconds=0.2, reading_seconds=0.2) as server:
        yield server


@contextmanager
def connected(server: Running) -> Iterator[socket.socket]:
    url = server.client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    received = bytearray()
    while part := connection.recv(1 << 16):
        received += part
    return bytes(received)


def closed(server: Running, cause: str) -> float:
    found = server.service.metrics.registry.get_sample_value("vae_closed_connections_total", {"cause": cause})
    assert found is not None
    return found


@pytest.mark.parametrize(
    "sent", [b"", b"GET /heal", HEAD, b"\r\n"], ids=["nothing", "line", "headers", "blank"]
)
def test_a_head_that_does_not_come_is_given_up(hasty: Running, sent: bytes) -> None:
    before = closed(hasty, "head")
    with connected(hasty) as connection:
        connection.sendall(sent)
        assert rest(connection).startswith(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n")
    assert closed(hasty, "head") == before + 1


def test_a_head_that_comes_drop_by_drop_is_given_up(hasty: Running) -> None:
    before = closed(hasty, "head")
    with connected(hasty) as connection:
        connection.sendall(HEAD)

        def is_closed() -> bool:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"X: 1\r\n")
            return closed(hasty, "head") == before + 1

        eventually(is_closed)


@pytest.mark.parametrize("line", [b"X-Long: " + b"x" * MAX_HEAD_BYTES, b"X: 1\r\n" * (MAX_HEAD_BYTES // 6)])
def test_a_head_that_is_too_large_is_refused(hasty: Running, line: bytes) -> None:
    before = closed(hasty, "large-head")
    with connected(hasty) as connection:
        connection.sendall(HEAD + line)
        assert rest(connection).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert closed(hasty, "large-head") == before + 1


@pytest.mark.parametrize("trailers", [b"a:\r\n" * (MAX_HEAD_BYTES // 2), b"a:" + 2 * MAX_HEAD_BYTES * b"x"])
def test_what_follows_a_body_is_bounded(hasty: Running, trailers: bytes) -> None:
    before = closed(hasty, "large-head")
    with connected(hasty) as connection, suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + trailers + b"b: c")
        while connection.recv(1 << 16):
            pass
    eventually(lambda: closed(hasty, "large-head") == before + 1)


def test_what_follows_a_body_is_no_header(hasty: Running) -> None:
    body = npy(np.zeros((1, 8, 8), np.uint8))
    with connected(hasty) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        connection.sendall(b"%x\r\n" % len(body) + body + b"\r\n0\r\nX-Request-Id: trailing\r\n\r\n")
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"trailing" not in answer


def test_the_second_request_of_a_connection_has_as_long_as_the_first(hasty: Running) -> None:
    with connected(hasty) as connection:
        connection.sendall(ASKING)
        assert b'{"status":"live"}' in connection.recv(1 << 16)
        connection.sendall(ASKING[:10])
        assert rest(connection).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_a_late_head_does_not_break_into_the_answer_before_it(bundle_folder: Path, gate: Gate) -> None:  # noqa: F811
    body = npy(np.zeros((1, 8, 8), np.uint8))
    with running(bundle_folder, head_seconds=0.2) as server, connected(server) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + ASKING[:10])
        assert gate.entered.acquire(timeout=30)
        assert rest(connection) == b""
        gate.opened.set()
        assert closed(server, "head") == 1


def test_requests_that_come_together_are_answered(hasty: Running) -> None:
    last = ASKING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connected(hasty) as connection:
        connection.sendall(ASKING + ASKING + last)
        assert rest(connection).count(b"HTTP/1.1 200 OK") == 3


def test_many_requests_that_come_at_once_are_taken_a_few_at_a_time(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, parse = [0], PromptProtocol._parse

    def noted(protocol: PromptProtocol) -> None:
        parse(protocol)
        waiting.append(len(protocol.pipeline))

    monkeypatch.setattr(PromptProtocol, "_parse", noted)
    count, short = 5_000, b"GET /health/live HTTP/1.1\r\n\r\n"
    with running(bundle_folder) as server, connected(server) as connection:
        sending = threading.Thread(target=connection.sendall, args=(short * count,))
        sending.start()
        answered = 0
        with connection.makefile("rb") as answers:
            while answered < count:
                line = answers.readline()
                assert line, "the connection has ended"
                answered += line.endswith(b"HTTP/1.1 200 OK\r\n")
        sending.join()
    assert 0 < max(waiting) <= PIECE_BYTES // len(short) + 1


def test_a_body_after_a_request_that_waits_is_not_timed_meanwhile(
    bundle_folder: Path,
    gate: Gate,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.server.ANSWER_SECONDS", -25.0)  # a body has five seconds
    body = npy(np.zeros((1, 8, 8), np.uint8))
    large = npy(np.zeros((1000, 8, 8), np.uint8))
    with running(bundle_folder) as server, connected(server) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(large) + large[:-1])
        assert gate.entered.acquire(timeout=30)
        connection.settimeout(7)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(30)
        gate.opened.set()
        assert whole_answer(connection).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(large[-1:])
        assert whole_answer(connection).startswith(b"HTTP/1.1 200 OK")
        assert closed(server, "body") == 0


def test_what_is_computed_is_told_that_its_client_has_gone_with_more_behind_it(
    bundle_folder: Path,
    gate: Gate,  # noqa: F811
) -> None:
    body = npy(np.zeros((1, 8, 8), np.uint8))
    with running(bundle_folder) as server:
        with connected(server) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + ASKING)
            assert gate.entered.acquire(timeout=30)
        eventually(lambda: dropped(server, "disconnected") == 1)
        gate.opened.set()


def test_what_is_not_http_does_not_break_into_the_answer_before_it(
    bundle_folder: Path,
    gate: Gate,  # noqa: F811
) -> None:
    body = npy(np.zeros((1, 8, 8), np.uint8))
    with running(bundle_folder) as server, connected(server) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\0\r\n\r\n")
        assert rest(connection) == b""
        gate.opened.set()


@pytest.mark.parametrize(
    "sent",
    [b"\0\r\n\r\n", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /\0 HTTP/1.1\r\n\r\n"],
)
def test_what_is_not_http_is_refused(hasty: Running, sent: bytes) -> None:
    with connected(hasty) as connection:
        connection.sendall(sent)
        assert rest(connection).startswith(b"HTTP/1.1 400 Bad Request")


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"


@pytest.mark.parametrize("sent_at_once", [1 << 16, 100, 1])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_request_that_asks_for_another_protocol_as_well_is_answered_in_this_one(
    hasty: Running, sent_at_once: int, framing: str
) -> None:
    body = npy(np.zeros((1, 8, 8), np.uint8))
    if framing == "length":
        sent = HEAD + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        sent = (
            HEAD
            + b"Transfer-Encoding: chunked\r\n"
            + UPGRADE
            + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        )
    with connected(hasty) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for at in range(0, len(sent), sent_at_once):
                connection.sendall(sent[at : at + sent_at_once])
            answer = whole_answer(connection)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b'"mu":' in answer


@pytest.mark.parametrize("with_body", [False, True])
@pytest.mark.parametrize(("version", "connection"), [(b"1.0", b"Upgrade"), (b"1.1", b"close, Upgrade")])
def test_the_last_request_of_a_connection_may_ask_for_another_protocol_as_well(
    hasty: Running, version: bytes, connection: bytes, with_body: bool
) -> None:
    upgrade = b"Connection: %b\r\nUpgrade: h2c\r\n" % connection
    if with_body:
        body = npy(np.zeros((1, 8, 8), np.uint8))
        sent = HEAD + upgrade + b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        sent = ASKING[:-2] + upgrade + b"\r\n"
    with connected(hasty) as open_connection:
        open_connection.sendall(sent.replace(b"HTTP/1.1", b"HTTP/" + version))
        answer = rest(open_connection)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert (b'"mu":' if with_body else b'{"status":"live"}') in answer


def test_requests_that_come_together_and_ask_for_another_protocol_are_answered(hasty: Running) -> None:
    asking = ASKING[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with connected(hasty) as connection:
        connection.sendall(asking * 300 + ASKING)
        for _ in range(301):
            assert b'{"status":"live"}' in whole_answer(connection)


def test_a_connection_is_closed_where_nothing_follows_a_body_that_nobody_read(
    hasty: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hasty.server.config, "timeout_keep_alive", 2)
    before = closed(hasty, "body")
    with connected(hasty) as connection:
        connection.sendall(HEAD.replace(b"/encode", b"/health/live") + b"Content-Length: 4\r\n\r\n")
        assert whole_answer(connection).startswith(b"HTTP/1.1 405")
        connection.sendall(b"body")
        assert rest(connection) == b""
    assert closed(hasty, "body") == before


def test_a_body_that_does_not_come_is_answered_and_given_up(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.ANSWER_SECONDS", 0.2)
    with running(bundle_folder, deadline_seconds=0.2) as server:
        for path in (b"/encode", b"/health/live"):  # one that reads its body, and one that does not
            with connected(server) as connection:
                connection.sendall(HEAD.replace(b"/encode", path) + b"Content-Length: 100\r\n\r\n")
                status = b"504" if path == b"/encode" else b"405"
                assert rest(connection).startswith(b"HTTP/1.1 " + status)
        assert closed(server, "body") == 2


def test_a_client_that_does_not_read_is_cut_off(hasty: Running) -> None:
    before = closed(hasty, "reading")
    with connected(hasty) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        query = b"/sample?n=100000&format=npy&model=colour"
        connection.sendall(ASKING.replace(b"/health/live", query))
        eventually(lambda: closed(hasty, "reading") == before + 1)
    eventually(lambda: "queued 0 images" in repr(hasty.service.batcher))


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
def test_a_client_that_does_not_read_the_last_of_an_answer_is_cut_off(
    hasty: Running, monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    made = PromptProtocol.connection_made

    def made_narrow(protocol: PromptProtocol, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
        made(protocol, transport)

    monkeypatch.setattr(PromptProtocol, "connection_made", made_narrow)
    before, (url, port) = closed(hasty, "reading"), ("127.0.0.1", hasty.client.base_url.port)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        connection.connect((url, port))
        connection.sendall(ASKING.replace(b"/health/live", b"/sample?n=800&format=npy")[:-2] + last + b"\r\n")
        eventually(lambda: closed(hasty, "reading") == before + 1)
        eventually(lambda: not hasty.server.server_state.connections)


class Clock:
    """A loop and a transport of which the protocol asks for the time, for calls and for what is unsent."""

    def __init__(self, sending: socket.socket) -> None:
        self.now, self.unsent, self.sending = 0.0, 0, sending
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.is_aborted = self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def call_later(self, seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        self.calls.append((self.now + seconds, function))
        return cast(asyncio.TimerHandle, None)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self.sending

    def abort(self) -> None:
        self.is_aborted = True

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [call for call in self.calls if call[0] <= end]:
            first = min(due, key=lambda call: call[0])
            self.calls.remove(first)
            self.now = first[0]
            first[1]()
        self.now = end


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's and the client's end of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    with client, server:
        yield server, client


@pytest.fixture
def clock(ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(ends[0])
    monkeypatch.setattr("app.protocol.monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def protocol(clock: Clock) -> PromptProtocol:
    made: PromptProtocol = PromptProtocol(
        Config(lambda: None, log_config=None),
        ServerState(),
        {},
        cast(asyncio.AbstractEventLoop, clock),
        patience=Patience(10, 35, 60),
        closed=Counter("closed", "…", ["cause"], registry=None),
    )
    made.transport = cast(asyncio.Transport, clock)
    made.flow = FlowControl(made.transport)
    made._look_later()
    return made


def test_a_client_that_reads_a_large_answer_slowly_but_steadily_is_waited_for(
    clock: Clock, protocol: PromptProtocol
) -> None:
    clock.unsent = 64_000_000
    while clock.unsent > 0:  # at 8 Mbit/s
        clock.wait(1)
        clock.unsent = max(0, clock.unsent - 1_000_000)
        assert not clock.is_aborted
    clock.wait(600)
    assert not clock.is_aborted


def test_a_client_that_reads_a_stream_slowly_but_steadily_is_waited_for(
    clock: Clock, protocol: PromptProtocol
) -> None:
    for _ in range(100):
        clock.unsent = 100_000
        protocol.pause_writing()
        clock.wait(25)
        clock.unsent = 10_000
        protocol.resume_writing()
    assert not clock.is_aborted


def test_a_client_that_is_hardly_behind_what_is_written_is_waited_for(
    clock: Clock, protocol: PromptProtocol
) -> None:
    for unsent in [40_000, 30_000, 35_000, 20_000] * 20:
        clock.unsent = unsent
        clock.wait(15)
    assert not clock.is_aborted


@pytest.mark.parametrize("bytes_a_second", [0, 1, 500])
def test_a_client_that_hardly_reads_is_not_waited_for(
    clock: Clock, protocol: PromptProtocol, bytes_a_second: int
) -> None:
    clock.unsent = 1_000_000
    for _ in range(95):
        clock.wait(1)
        clock.unsent -= bytes_a_second
    assert clock.is_aborted


def test_a_client_that_reads_what_the_kernel_holds_is_waited_for(
    ends: tuple[socket.socket, socket.socket], clock: Clock, protocol: PromptProtocol
) -> None:
    sending, reading = ends
    sending.setblocking(False)
    reading.settimeout(10)
    with suppress(BlockingIOError):
        while True:
            sending.send(bytes(1 << 16))
    clock.unsent = (
        1_000_000  # all the time, as the kernel asks for nothing until a megabyte of its own is read
    )
    for _ in range(3):
        clock.wait(50)
        unsent_bytes = protocol._unsent()
        while protocol._unsent() > unsent_bytes - READ_BYTES:
            reading.recv(1 << 12)  # much at once would have a kernel give the client room for megabytes
        assert not clock.is_aborted
    clock.wait(120)
    assert clock.is_aborted


def test_a_connection_that_is_closing_is_not_given_up_as_well(clock: Clock, protocol: PromptProtocol) -> None:
    protocol._wait()
    clock.is_closed, clock.unsent = True, 1000
    clock.wait(55)
    assert not clock.is_aborted
    clock.wait(20)
    assert clock.is_aborted
    assert [protocol._closed.labels(cause)._value.get() for cause in ("head", "reading")] == [0, 1]


class Written:
    """A transport that notes what is written to it, each time."""

    def __init__(self) -> None:
        self.times: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.times.append(data)

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.times.append(b"".join(parts))

    def is_closing(self) -> bool:
        return self.times[-1:] == [b"closed"]

    def close(self) -> None:
        self.times.append(b"closed")


@pytest.mark.parametrize(
    ("parts", "times"),
    [
        ([b"head", b"body"], [b"headbody"]),
        ([b"head", b"", b"body", b"more"], [b"head", b"body", b"more"]),
        ([b"HTTP/1.1 100 Continue", b"head", b"body"], [b"HTTP/1.1 100 Continue", b"headbody"]),
        ([b"head"], [b"head"]),
        ([], []),
    ],
)
def test_the_head_of_an_answer_is_written_with_its_body(parts: list[bytes], times: list[bytes]) -> None:
    transport = Written()
    joined = JoinedWrites(cast(asyncio.Transport, transport))
    for part in parts:
        joined.write(part)
    assert not joined.is_closing()
    joined.flush()
    assert transport.times == times
    joined.close()
    assert transport.times == [*times, b"closed"]
    assert joined.is_closing()


def test_the_head_of_an_answer_is_not_written_to_a_connection_that_has_gone() -> None:
    transport = Written()
    joined = JoinedWrites(cast(asyncio.Transport, transport))
    joined.write(b"head")
    transport.close()
    joined.close()
    assert transport.times == [b"closed", b"closed"]


def test_a_head_without_a_body_is_answered_and_the_next_request_too(hasty: Running) -> None:
    ask = b"%s /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: %s\r\n\r\n"
    with connected(hasty) as connection:
        connection.sendall(ask % (b"HEAD", b"keep-alive"))
        first = connection.recv(1 << 16)
        assert first.startswith(b"HTTP/1.1 405 ")
        assert first.endswith(b"\r\n\r\n")
        connection.sendall(ask % (b"GET", b"close"))
        second = rest(connection)
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")
    assert second.endswith(b'\r\n\r\n{"status":"live"}')


def test_a_client_that_waits_to_be_told_to_go_on_is(hasty: Running) -> None:
    body = npy(np.zeros((1, 8, 8), np.uint8))
    with connected(hasty) as connection:
        length = b"Content-Length: %d\r\nConnection: close\r\n" % len(body)
        connection.sendall(HEAD + length + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert rest(connection).startswith(b"HTTP/1.1 200 OK\r\n")


def stopping(server: Running) -> None:
    """Tell a server to stop, and return once it takes no more connections and has told those that it has."""
    server.server.handle_exit(signal.SIGTERM, None)

    def is_closed() -> bool:
        try:
            with connected(server):
                return False
        except OSError:
            return True

    def is_told() -> bool:
        return all(connection._is_leaving for connection in list(server.server.server_state.connections))

    eventually(is_closed)
    eventually(is_told)


def dropped(server: Running, cause: str) -> float:
    found = server.service.metrics.registry.get_sample_value("vae_dropped_requests_total", {"cause": cause})
    assert found is not None
    return found


def whole_answer(connection: socket.socket) -> bytes:
    """Read an answer of a known length, and nothing of what comes after it."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += one_more(connection, 1)
    length = int(re.search(rb"content-length: (\d+)", received)[1])  # type: ignore[index]
    while length:
        part = one_more(connection, length)
        received += part
        length -= len(part)
    return received


def one_more(connection: socket.socket, size: int) -> bytes:
    part = connection.recv(size)
    assert part, "the connection has ended"
    return part


def test_a_request_that_crosses_the_stop_is_answered_and_told_that_it_is_the_last(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.protocol.LINGER_SECONDS", 30)
    with running(bundle_folder) as server, connected(server) as kept, connected(server) as begun:
        kept.sendall(ASKING)
        assert b"connection: close" not in whole_answer(kept)
        begun.sendall(ASKING[:10])
        stopping(server)
        for connection, sent in ((kept, ASKING), (begun, ASKING[10:])):
            connection.sendall(sent)
            answer = rest(connection)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b"\r\nconnection: close\r\n" in answer.lower()
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_a_connection_that_waits_to_be_taken_at_the_stop_is_taken_and_answered(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping_now, connected_now, on_tick = threading.Event(), threading.Event(), Server.on_tick

    async def held(server: Server, counter: int) -> bool:
        if is_over := await on_tick(server, counter):
            stopping_now.set()
            connected_now.wait(30)  # in the event loop's thread, which takes no connection meanwhile
        return is_over

    monkeypatch.setattr(Server, "on_tick", held)
    with running(bundle_folder) as server:
        server.server.handle_exit(signal.SIGTERM, None)
        assert stopping_now.wait(30)
        with connected(server) as connection:
            connection.sendall(ASKING)
            connected_now.set()
            assert b'{"status":"live"}' in rest(connection)


def test_an_answer_that_had_begun_at_the_stop_is_not_the_last(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.protocol.LINGER_SECONDS", 3.0)
    with running(bundle_folder) as server, connected(server) as connection:
        query = b"/sample?n=20000&format=npy&model=colour"
        connection.sendall(ASKING.replace(b"/health/live", query))
        first = connection.recv(1 << 10)
        assert first.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" not in first
        stopping(server)
        left = 128 + 20000 * 576 - len(first.partition(b"\r\n\r\n")[2])
        while left:
            part = connection.recv(min(left, 1 << 16))
            assert part, left
            left -= len(part)
        connection.sendall(ASKING)
        assert b'{"status":"live"}' in rest(connection)


@pytest.fixture
def lingered(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the moment after the stop is over."""
    lingered, leave = threading.Event(), PromptProtocol._leave

    def noted(protocol: PromptProtocol) -> None:
        leave(protocol)
        lingered.set()

    monkeypatch.setattr(PromptProtocol, "_leave", noted)
    monkeypatch.setattr("app.protocol.LINGER_SECONDS", 3.0)
    return lingered


def test_a_head_that_takes_longer_than_the_moment_is_waited_for(
    bundle_folder: Path, lingered: threading.Event
) -> None:
    with running(bundle_folder) as server, connected(server) as connection:
        connection.sendall(ASKING[:10])
        stopping(server)
        assert lingered.wait(30)
        connection.sendall(ASKING[10:])
        assert b'{"status":"live"}' in rest(connection)


def test_a_blank_line_is_no_head_to_be_waited_for(bundle_folder: Path) -> None:
    with running(bundle_folder, head_seconds=60) as server, connected(server) as connection:
        connection.sendall(ASKING)
        whole_answer(connection)
        connection.sendall(b"\r\n")
        stopping(server)
        began = time.monotonic()
        assert rest(connection) == b""
        assert time.monotonic() - began < 30  # half of what a head has


def test_an_answer_that_takes_longer_than_the_moment_is_waited_for(
    bundle_folder: Path,
    gate: Gate,  # noqa: F811
    lingered: threading.Event,
) -> None:
    body = npy(np.zeros((1, 8, 8), np.uint8))
    with running(bundle_folder) as server, connected(server) as connection:
        connection.sendall(ASKING)
        whole_answer(connection)
        stopping(server)
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert gate.entered.acquire(timeout=30)
        assert lingered.wait(30)
        gate.opened.set()
        assert rest(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_connection_on_which_nothing_comes_is_closed_a_moment_after_the_stop(bundle_folder: Path) -> None:
    with running(bundle_folder) as server, connected(server) as connection:
        connection.sendall(ASKING)
        whole_answer(connection)
        stopping(server)
        assert rest(connection) == b""
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_slow_connections_keep_nobody_waiting(bundle_folder: Path) -> None:
    with running(bundle_folder, head_seconds=30) as server:
        slow = [
            socket.create_connection(("127.0.0.1", server.client.base_url.port or 80)) for _ in range(200)
        ]
        for connection in slow:
            connection.sendall(HEAD)
        for _ in range(20):
            assert server.client.get("/sample").status_code == 200
        for connection in slow:
            connection.close()
        assert closed(server, "head") == 0
