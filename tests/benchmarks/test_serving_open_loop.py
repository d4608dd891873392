"""The open-loop generator sends when it is time, whatever the server does, and counts what comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving.open_loop import figures, markdown, plot, row_of
from benchmarks.serving.poisson import Answers, offer, request_bytes
from benchmarks.serving.processes import free_port

REQUEST = request_bytes("POST", "/", "text/plain", "*/*", b"body")


@contextmanager
def server(*answers: bytes, delay: float = 0.0) -> Iterator[int]:
    """Answer requests with each of some answers in turn, after a delay; give the port."""
    port, stop = free_port(), threading.Event()
    started = threading.Event()

    async def serve() -> None:
        count = 0

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            try:
                while await reader.read(len(REQUEST)):
                    answer = answers[count % len(answers)]
                    count += 1
                    await asyncio.sleep(delay)
                    if not answer:
                        break
                    writer.write(answer)
            finally:  # also where the loop ends first and cancels this
                writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", port):
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait()
    try:
        yield port
    finally:
        stop.set()
        thread.join()


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


def test_requests_do_not_wait_for_answers() -> None:
    with server(GOOD, delay=0.3) as port:
        answers = offer(port, [REQUEST], per_second=100, seconds=0.5)
    assert len(answers.status) == round(answers.offered_per_second * 0.5)
    assert len(answers.status) > 20
    assert answers.latencies(200).min() >= 0.29
    assert answers.latencies(200).max() < 1


def test_refusals_and_broken_connections_are_told_apart() -> None:
    with server(GOOD, REFUSED, b"") as port:
        found = figures(offer(port, [REQUEST], per_second=200, seconds=0.5))
    total = round(found["offered_per_second"] * 0.5)
    good = total - found["refused"] - found["neither"]
    assert found["refused"] == found["refused_with_retry_after"]
    assert min(good, found["refused"], found["neither"]) > total // 5


def test_nobody_there_is_no_answer() -> None:
    answers = offer(free_port(), [REQUEST], per_second=100, seconds=0.1)
    assert set(answers.status) == {0}
    assert figures(answers)["p99_seconds"] is None


def test_a_generator_that_was_late_says_so() -> None:
    late = Answers(10, 1, [200], [0.1], [False], [0.5])
    row = {"contender": "ours", "workload": "w", "load": 1, "peak_per_second": 10, **figures(late)}
    assert row_of(row).startswith("| ours: w (the generator was late) | 10 | 1 | 1 | 100.0 |")


def test_the_report_shows_both_tables(tmp_path: Path) -> None:
    one = figures(Answers(10, 1, [200, 429], [0.1, 0.01], [False, True], [0.0]))
    row = {"contender": "ours", "workload": "w", "load": 0.5, "peak_per_second": 10, **one}
    bulk = {"images": 5000, "alone": one, "beside": one, "bulk_requests": 3}
    shown = markdown({"loads": [row], "beside_bulk": bulk})
    assert "| ours: w | 10 | 0.5 | 1 | 100.0 | 100.0 | 100.0 | 1 | 10.0 | 0 |" in shown
    assert "beside a connection that sends 5,000 images again and again (3 times)" in shown
    plot([row], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
