"""The interpreter's switch interval around what computes without its lock."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from torch import Tensor

from app import interpreter
from app.engine import CpuEngine
from app.interpreter import LONG_SECONDS, PROMPT_SECONDS, SWITCH_SECONDS, PromptReturn
from app.operations import ModelTask, Operation, Outputs, example_rows
from models.bundle import Bundle


@pytest.fixture(autouse=True)
def kept_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(interpreter.time, "thread_time", lambda: now[0])
    return now


def interval_within(block: PromptReturn, clock: list[float], seconds: float) -> float:
    with block:
        interval = sys.getswitchinterval()
        clock[0] += seconds
    return interval


def test_what_computes_long_has_the_lock_back_soon(clock: list[float]) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    block = PromptReturn()
    assert interval_within(block, clock, 2 * LONG_SECONDS) == pytest.approx(SWITCH_SECONDS)  # not known yet
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert interval_within(block, clock, LONG_SECONDS / 2) == pytest.approx(PROMPT_SECONDS)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert interval_within(block, clock, LONG_SECONDS / 2) == pytest.approx(SWITCH_SECONDS)


def test_a_fault_leaves_the_interval_as_it_was(clock: list[float]) -> None:
    block = PromptReturn()
    interval_within(block, clock, 2 * LONG_SECONDS)
    with pytest.raises(RuntimeError), block:
        raise RuntimeError
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)


def test_an_engine_computes_its_batches_so(grey: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "LONG_SECONDS", 0.0)
    engine = CpuEngine([grey], threads=1)
    task = ModelTask(grey.id, Operation.SCORE)
    rows = example_rows(grey.model, Operation.SCORE, 1)
    seen: list[float] = []
    run_model = engine._run

    def run(task: ModelTask, rows: Tensor) -> Outputs:
        seen.append(sys.getswitchinterval())
        return run_model(task, rows)

    monkeypatch.setattr(engine, "_run", run)
    engine.launch(task, [rows])
    engine.launch(task, [rows])
    assert seen[-1] == pytest.approx(PROMPT_SECONDS)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
