"""The threads that code chunks."""

from __future__ import annotations

import threading

import pytest

from codec.workers import workers


def test_all_threads_are_there_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with workers(3) as executor:
        assert len(executor._threads) == 3
        monkeypatch.setattr(threading.Thread, "start", None)  # no other can be started
        assert list(executor.map(str, range(5))) == ["0", "1", "2", "3", "4"]


def test_where_a_thread_cannot_be_started_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        workers(3)
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()
