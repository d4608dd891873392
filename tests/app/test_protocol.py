"""Clients that send slowly or do not read: dropped in time, counted, and no trouble for the others."""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from app.protocol import MAX_HEAD_BYTES, PromptProtocol
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


def stopping(server: Running) -> None:
    """Tell a server to stop, and return once it takes no more connections."""
    server.server.handle_exit(signal.SIGTERM, None)

    def is_closed() -> bool:
        try:
            with connected(server):
                return False
        except OSError:
            return True

    eventually(is_closed)


def whole_answer(connection: socket.socket) -> bytes:
    """Read an answer of a known length."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1 << 12)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


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


def test_an_answer_that_takes_longer_than_the_moment_is_waited_for(
    bundle_folder: Path,
    gate: Gate,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lingered, leave = threading.Event(), PromptProtocol._leave

    def noted(protocol: PromptProtocol) -> None:
        leave(protocol)
        lingered.set()

    monkeypatch.setattr(PromptProtocol, "_leave", noted)
    monkeypatch.setattr("app.protocol.LINGER_SECONDS", 3.0)
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
