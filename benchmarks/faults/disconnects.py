"""Clients that go in the middle of their body or of their answer: nothing of them is kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import questions_of
from benchmarks.faults.service import Service, left_after, ready_service, wait_for_quiet

TIMES, TOGETHER = 1000, 20
SETTINGS: Mapping[str, str] = {"VAE_THREADS": "1"}
PATH = "/sample?n=2000&format=npy"


def run(setup: Setup) -> list[Row]:
    """Hang up in the middle of bodies, then in the middle of answers, and look at what is held after."""
    [question, *_] = questions_of(setup.bundle)
    head = (
        f"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: {question.headers['Content-Type']}\r\n"
        f"Content-Length: {1 << 20}\r\n\r\n"
    )
    body = head.encode() + bytes(1 << 19)
    answer = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    return [
        departed(setup, "clients that go in the middle of their body", body, read_bytes=0),
        departed(setup, "clients that go in the middle of their answer", answer, read_bytes=2000),
    ]


def departed(setup: Setup, fault: str, sent: bytes, read_bytes: int) -> Row:
    """Have clients send, read a little and go, some at a time; then wait for quiet."""
    with ready_service(setup, SETTINGS) as service:
        hang_up(service, sent, read_bytes, 2 * TOGETHER)  # buffers grow
        wait_for_quiet(service)
        before = service.held()
        rounds = setup.times(TIMES / TOGETHER)
        for _ in range(rounds):
            hang_up(service, sent, read_bytes, TOGETHER)
        left, is_ready = left_after(service, before), service.is_ready()
    promises = {**left.promises(), "ready at the end": is_ready}
    return Row(fault, rounds * TOGETHER, SETTINGS, left.figures(), promises)


def hang_up(service: Service, sent: bytes, read_bytes: int, count: int) -> None:
    """Have some clients send, read so many bytes and go, at once."""

    def client() -> None:
        with service.connect() as connection:
            connection.sendall(sent)
            if read_bytes:
                connection.recv(read_bytes)

    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
