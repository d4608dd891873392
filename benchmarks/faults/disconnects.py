"""Clients that go in the middle of their body or of their answer: nothing of them is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import questions_of
from benchmarks.faults.service import SETTLE_SECONDS, Service, ready_service

TIMES, TOGETHER = 1000, 20
ALLOWED_BYTES = 32 << 20  # of memory that allocators keep
QUIET_SECONDS = 30.0
LEFT = ("vae_queued_images", "vae_requests_in_flight")  # the scrape itself is one in flight
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
        seconds, left = wait_for_quiet(service)
        after, is_ready = service.held(), service.is_ready()
    grown = after.resident_bytes - before.resident_bytes
    figures = {"quiet_after_seconds": round(seconds, 3), "left": left, "grown_bytes": grown}
    return Row(
        fault,
        rounds * TOGETHER,
        SETTINGS,
        {**figures, "before": before.__dict__, "after": after.__dict__},
        {
            "nothing is queued or in flight afterwards": left == 0,
            f"memory grows by less than {ALLOWED_BYTES >> 20} MB": grown < ALLOWED_BYTES,
            "no descriptor is left": after.open_files <= before.open_files,
            "ready at the end": is_ready,
        },
    )


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


def wait_for_quiet(service: Service) -> tuple[float, float]:
    """Return after how long nothing was queued or in flight, and what still was when that took too long.

    Then the service has a moment to close what has ended, the connections of these questions among it.
    """
    begun = time.monotonic()
    while (left := sum(map(service.figure, LEFT)) - 1) > 0 and time.monotonic() - begun < QUIET_SECONDS:
        threading.Event().wait(0.05)
    seconds = time.monotonic() - begun
    threading.Event().wait(SETTLE_SECONDS)
    return seconds, left
