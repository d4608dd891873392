"""The heap: what is freed leaves the process."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import heap
from benchmarks.serving.soak import resident_bytes

ROWS, ROW_BYTES = 40_000, 2_000  # more than Python allots by itself, and less than is mapped by itself


@pytest.fixture
def trimming() -> Iterator[None]:
    stop = threading.Event()
    trim = ctypes.CDLL(None).malloc_trim
    thread = threading.Thread(target=heap.give_back, args=(trim, 0.05, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


def resident() -> int:
    return resident_bytes(int(Path("/proc/self").resolve().name))


def test_what_lies_before_something_that_stays_is_given_back(trimming: None) -> None:
    rows = [bytearray(ROW_BYTES) for _ in range(ROWS)]
    full = resident()
    kept = rows[:: ROWS // 100]
    del rows
    until = time.monotonic() + 30
    while full - resident() < ROWS * ROW_BYTES * 0.8:
        assert time.monotonic() < until, f"{full} bytes were resident, and {resident()} are"
        time.sleep(0.01)
    assert len(kept) == 100


@pytest.fixture
def fresh() -> Iterator[None]:
    heap.keep_heap_small.cache_clear()
    yield
    heap.keep_heap_small.cache_clear()


@pytest.fixture
def started(fresh: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    class Thread:
        def __init__(self, name: str, **_: object) -> None:
            names.append(name)

        def start(self) -> None:
            names.append("started")

    monkeypatch.setattr(heap.threading, "Thread", Thread)
    return names


def test_one_thread_of_a_process_does_it(started: list[str]) -> None:
    heap.keep_heap_small()
    heap.keep_heap_small()
    assert started == ["heap", "started"]


def test_another_c_library_is_left_alone(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap.keep_heap_small()
    assert started == []
