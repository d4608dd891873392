"""The look at slow requests takes the threads' clocks and the log's lines for what they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.processes import BenchmarkError, Process
from benchmarks.serving.tail import (
    Clock,
    clock_of,
    clocks,
    of_the_slowest,
    quantiles,
    spent,
    table,
    under_load,
)
from tests.benchmarks.test_serving_open_loop import GOOD, REQUEST, server


def test_a_thread_s_clock_is_the_kernel_s() -> None:
    assert clock_of("5000 70 3\n") == Clock(5000, 70)


def test_threads_are_told_by_what_they_did_meanwhile() -> None:
    before = {1: Clock(100, 10), 2: Clock(9000, 0), 3: Clock(50, 5), 4: Clock(1, 1)}
    after = {1: Clock(170, 30), 2: Clock(9001, 0), 3: Clock(90, 6), 5: Clock(500, 0)}
    assert spent(before, after, 1) == (Clock(70, 20), Clock(40, 1))
    assert spent({1: Clock(1, 0)}, {1: Clock(2, 0)}, 1) == (Clock(1, 0), Clock(0, 0))


def test_this_thread_has_a_clock_that_goes_on() -> None:
    main = os.getpid()
    before = clocks(main)
    sum(range(10_000_000))
    assert spent(before, clocks(main), main)[0].ran > 0


def test_the_slowest_are_told_apart_by_part() -> None:
    fast = [{"duration_ms": 1.0, "queue_ms": 0.1, "compute_ms": 0.5}] * 198
    slow = [
        {"duration_ms": 30.0, "queue_ms": 10.0, "compute_ms": 15.0},
        {"duration_ms": 10.0},  # nothing was computed
    ]
    assert of_the_slowest([*fast, *slow]) == {
        "queue_seconds": pytest.approx(0.005),
        "device_seconds": pytest.approx(0.0075),
        "event_loop_and_threads_seconds": pytest.approx(0.0075),
    }
    assert quantiles(np.arange(101) / 100) == {"p50_seconds": 0.5, "p99_seconds": 0.99}


class Logged:
    """A server in this process whose log has some lines."""

    def __init__(self, log: Path, port: int) -> None:
        self.port = port
        self.process = Process(self, log, "")  # type: ignore[arg-type]
        self.pid = os.getpid()


def test_answers_that_were_not_logged_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.serving.tail.SETTLE_SECONDS", 0.0)
    (log := tmp_path / "log").write_text('{"message": "ready"}\n')
    with server(GOOD) as port, pytest.raises(BenchmarkError, match="answers came, and 0 were logged"):
        under_load(Logged(log, port), [REQUEST], 50, 0.2)  # type: ignore[arg-type]
    failing = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"
    with server(failing) as port, pytest.raises(BenchmarkError, match=r"answered \[500\]"):
        under_load(Logged(log, port), [REQUEST], 50, 0.2)  # type: ignore[arg-type]


def test_the_table_has_a_row_for_each_load() -> None:
    part = {"p50_seconds": 0.001, "p99_seconds": 0.0025}
    thread = {"running": 0.25, "waiting_for_a_core": 0.5}
    row = {
        "offered_per_second": 1234.5,
        "seen_by_the_client": part,
        "within_the_service": part,
        "slowest_within_the_service": {"queue": 0.001, "device": 0.002, "rest": 0.003},
        "threads": {"event loop": thread, "device": thread, "generator": thread},
    }
    cells = " | ".join(["1.0, 2.5"] * 2 + ["1.0", "2.0", "3.0"] + ["50% (runs 25%)"] * 3)
    assert table({"loads": {"half": row}}).splitlines()[2] == f"| half, 1,234/s | {cells} |"
