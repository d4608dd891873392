"""The open-loop generators send when it is time, whatever the server does, and count what comes back."""

from __future__ import annotations

import asyncio
import math
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.serving import h2load, wrk
from benchmarks.serving.open_loop import (
    Figures,
    markdown,
    of_answers,
    of_h2load,
    of_wrk,
    plot,
    probed,
    row_of,
)
from benchmarks.serving.poisson import Answers, offer, request_bytes
from benchmarks.serving.processes import BenchmarkError, free_port
from benchmarks.serving.workloads import PNG_BASE64

REQUEST = request_bytes("POST", "/", "text/plain", "*/*", b"body")
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason=wrk.MISSING)
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason=h2load.MISSING)


@contextmanager
def server(*answers: bytes | None, delay: float = 0.0) -> Iterator[int]:
    """Answer requests with each of some answers in turn, after a delay, or never with None; give the port."""
    port, stop = free_port(), threading.Event()
    started = threading.Event()

    async def serve() -> None:
        count = 0

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            try:
                while await reader.read(1 << 16):
                    answer = answers[count % len(answers)]
                    count += 1
                    await asyncio.sleep(delay if answer is not None else math.inf)
                    if not answer:
                        break
                    writer.write(answer)
            except ConnectionResetError:  # as wrk ends
                pass
            finally:  # also where the loop ends first and cancels this
                writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", port, backlog=2048):
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


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(b"body")
    return path


def test_requests_do_not_wait_for_answers() -> None:
    with server(GOOD, delay=0.3) as port:
        answers = offer(port, [REQUEST], per_second=100, seconds=0.5)
    assert len(answers.status) == round(answers.offered_per_second * 0.5)
    assert len(answers.status) > 20
    assert answers.latencies(200).min() >= 0.29
    assert answers.latencies(200).max() < 1


def test_refusals_and_broken_connections_are_told_apart() -> None:
    with server(GOOD, REFUSED, b"") as port:
        answers = offer(port, [REQUEST], per_second=200, seconds=0.5)
    found, total = of_answers(answers), len(answers.status)
    assert probed(answers) == {"sent": total, "refused": found.refused, "with_retry_after": found.refused}
    assert min(total - found.refused - found.failed, found.refused, found.failed) > total // 5


def test_nobody_there_is_no_answer() -> None:
    answers = offer(free_port(), [REQUEST], per_second=100, seconds=0.1)
    assert set(answers.status) == {0}
    assert of_answers(answers).p99_seconds is None


@needs_wrk
def test_connections_of_wrk_think_for_random_times(body: Path) -> None:
    with server(GOOD, GOOD, GOOD, REFUSED) as port:
        found = of_wrk(wrk.offer(f"http://127.0.0.1:{port}/", PNG_BASE64, [body], 300, 4, None))
    assert found.offered_per_second == pytest.approx(300, abs=50)  # six standard deviations
    assert found.answered_per_second == pytest.approx(0.75 * found.offered_per_second, abs=1)
    assert (found.failed, found.refused_p99_seconds) == (0, None)
    assert found.refused > 100


@needs_wrk
def test_a_connection_of_wrk_does_not_think_in_a_closed_loop(body: Path) -> None:
    with server(GOOD) as port:
        found = wrk.drive(f"http://127.0.0.1:{port}/", PNG_BASE64, [body], 1, None)
    assert found.requests > 300 * found.seconds


@needs_wrk
def test_what_is_under_way_when_wrk_ends_is_in_no_part_of_the_time(body: Path) -> None:
    connections = PNG_BASE64.connections
    with server(*[GOOD] * 3 * connections, *[None] * connections) as port:
        found = wrk.drive(f"http://127.0.0.1:{port}/", PNG_BASE64, [body], 2, None)
    assert found.requests == 2 * connections
    assert found.seconds < 1.9  # of 2, most of which nothing is answered in


@needs_h2load
def test_connections_of_h2load_send_by_the_clock(body: Path, tmp_path: Path) -> None:
    with server(GOOD, REFUSED) as port:
        url = f"http://127.0.0.1:{port}/"
        sent = h2load.offer(url, PNG_BASE64, body, 1500, 2, tmp_path, None)
    found = of_h2load(sent, 2)
    assert len(sent.at) == 6000  # of a thousand connections, in three seconds: each ends with one more
    assert sent.unanswered == 0
    assert sorted(set(sent.status.tolist())) == [200, 429]
    assert found.answered_per_second == pytest.approx(found.refused / 2, rel=0.1)
    assert found.failed == 0


def test_what_is_sent_and_what_ends_while_all_connections_send_is_counted() -> None:
    rows = [(0, 200, 100_000), (900_000, 200, 200_000), (1_500_000, 429, 50_000), (1_600_000, -1, 10)]
    rows += [(2_950_000, 200, 100_000)]
    log = "".join(f"{1_700_000_000_000_000 + at}\t{status}\t{took}\n" for at, status, took in rows)
    sent = h2load.parse(log, 7)
    found = of_h2load(sent, 2)
    assert found == Figures(1.5, 0.5, 0.1, 0.1, 0.1, 1, 0.05, 1)
    assert sent.unanswered == 2


def test_a_generator_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchmarkError, match=r"h2load is not installed; .*: apt-get install nghttp2-client"):
        h2load.require()


@needs_h2load
def test_what_is_never_answered_is_counted(
    body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2load, "DRAIN_SECONDS", 3)
    with server(GOOD, delay=2.5) as port:
        sent = h2load.offer(f"http://127.0.0.1:{port}/", PNG_BASE64, body, 100, 1, tmp_path, None)
    assert sent.unanswered + len(sent.at) == 300
    assert 0 < sent.unanswered < 300


@needs_h2load
def test_nobody_there_is_a_failure_of_h2load_s(body: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="not one request was answered: h2load"):
        h2load.offer(f"http://127.0.0.1:{free_port()}/", PNG_BASE64, body, 1000, 1, tmp_path, None)


def test_the_report_shows_all_tables(tmp_path: Path) -> None:
    answers = Answers(10, 1, [200, 429], [0.1, 0.01], [False, True], [0.0])
    one = of_answers(answers).__dict__
    asked = {"load": 0.5, "peak_per_second": 24, "asked_per_second": 12}
    row = {"contender": "ours", "workload": "w", **asked, **one, "probes": probed(answers), "unanswered": 3}
    row["lone_request_taken_after_seconds"] = None
    line = "| ours: w | 0.5 | 12 | 10 | 1 | 100.0 | 100.0 | 100.0 | 1 | 10.0 | 0 |"
    assert row_of(row) == line
    bulk = {"images": 5000, "alone": one, "beside": one, "bulk_requests": 3}
    shown = markdown({"loads": [row], "beside_bulk": bulk})
    assert line in shown.splitlines()
    assert "beside a connection that sends 5,000 images again and again (3 times)" in shown
    assert "of 2 requests of a slow client 1 were refused, 1 with Retry-After." in shown
    assert "A lone request is not taken 60 s later. 3 of h2load's requests were not answered" in shown
    plot([row], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
