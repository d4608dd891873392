"""The interpreter's switch interval around what computes without its lock."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import pytest
from torch import Tensor

from app import interpreter
from app.engine import CpuEngine
from app.interpreter import LONG_SECONDS, PROMPT_SECONDS, SWITCH_SECONDS, PromptReturn
from app.operations import ModelTask, Operation, Outputs, example_rows, run_operation
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
    assert interval_within(block, clock, LONG_SECONDS / 2) == pytest.approx(PROMPT_SECONDS)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert interval_within(block, clock, LONG_SECONDS / 2) == pytest.approx(SWITCH_SECONDS)


def test_what_computes_shortly_leaves_the_interval_alone(clock: list[float]) -> None:
    sys.setswitchinterval(0.005)
    block = PromptReturn()
    for _ in range(2):
        assert interval_within(block, clock, LONG_SECONDS / 2) == pytest.approx(0.005)
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_a_fault_ends_the_short_interval(clock: list[float]) -> None:
    block = PromptReturn()
    interval_within(block, clock, 2 * LONG_SECONDS)
    within: list[float] = []

    def fail() -> None:
        with block:
            within.append(sys.getswitchinterval())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert within == pytest.approx([PROMPT_SECONDS])
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)


@pytest.fixture
def seen(grey: Bundle, monkeypatch: pytest.MonkeyPatch) -> tuple[CpuEngine, list[float]]:
    """An engine, and the intervals in which it has computed its batches."""
    monkeypatch.setattr(interpreter, "LONG_SECONDS", 0.0)
    engine = CpuEngine([grey], threads=1)
    intervals: list[float] = []

    def run(task: ModelTask, rows: Tensor) -> Outputs:
        intervals.append(sys.getswitchinterval())
        return run_operation(grey.model, task, rows)

    monkeypatch.setattr(engine, "_run", run)
    recorded_task = ModelTask(grey.id, Operation.ENCODE)
    monkeypatch.setitem(engine._graphs, recorded_task, partial(run, recorded_task))
    sys.setswitchinterval(SWITCH_SECONDS)
    return engine, intervals


@pytest.mark.parametrize("operation", [Operation.ENCODE, Operation.SCORE])
def test_an_engine_is_prompt_after_a_long_batch_of_the_same_operation(
    seen: tuple[CpuEngine, list[float]], grey: Bundle, operation: Operation
) -> None:
    engine, intervals = seen
    rows = example_rows(grey.model, operation, 1)
    for _ in range(2):
        engine.launch(ModelTask(grey.id, operation), [rows])
    other = Operation.SCORE if operation is Operation.ENCODE else Operation.ENCODE
    engine.launch(ModelTask(grey.id, other), [rows])
    assert intervals == pytest.approx([SWITCH_SECONDS, PROMPT_SECONDS, SWITCH_SECONDS])
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
