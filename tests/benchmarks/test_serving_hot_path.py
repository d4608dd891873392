"""The hot path is measured on requests that are answered, and its parts are all of it."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.serving import hot_path


def test_the_parts_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_path, "REQUESTS", 3)
    monkeypatch.setattr(hot_path, "ROUNDS", 1)
    measured = asyncio.run(hot_path.measure())
    assert sum(measured["parts"].values()) == pytest.approx(measured["microseconds"])
    assert measured["parts"]["image decoding"] > 0
