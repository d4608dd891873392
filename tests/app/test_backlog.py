"""How long what waits takes, by hand."""

import pytest

from app.backlog import MAX_TASKS, PAST, Backlog
from app.operations import ModelTask, Operation

ENCODE, DECODE, SCORE = (
    ModelTask("m", operation) for operation in (Operation.ENCODE, Operation.DECODE, Operation.SCORE)
)
ROOM = 8


@pytest.fixture
def backlog() -> Backlog:
    """Return one whose batches have 8 images, and take 2 s to encode and 5 to decode."""
    backlog = Backlog(lambda task: ROOM)
    backlog.measure(ENCODE, 2.0)
    backlog.measure(DECODE, 5.0)
    return backlog


def test_nothing_waits_for_nothing(backlog: Backlog) -> None:
    assert backlog.seconds() == 0
    assert backlog.seconds_before(ENCODE, 100, 0) == 0


def test_whole_batches_before_a_job_are_waited_for(backlog: Backlog) -> None:
    backlog.count(ENCODE, 17)  # of 17 jobs
    assert backlog.seconds_before(ENCODE, 1, 17) == 2 * 2.0
    backlog.count(ENCODE, -16)
    assert backlog.seconds_before(ENCODE, 1, 1) == 0  # it has room in the next batch
    assert backlog.seconds() == 2.0


def test_a_small_job_does_not_wait_for_the_whole_of_a_large_one(backlog: Backlog) -> None:
    backlog.count(ENCODE, 800)
    assert backlog.seconds_before(ENCODE, 1, 1) == 0
    assert backlog.seconds_before(ENCODE, 80, 1) == 10 * 2.0
    assert backlog.seconds_before(ENCODE, 8000, 1) == 100 * 2.0


def test_other_tasks_have_as_many_turns(backlog: Backlog) -> None:
    backlog.count(ENCODE, 16)
    backlog.count(DECODE, 80)
    assert backlog.seconds_before(ENCODE, 1, 16) == 2 * 2.0 + 3 * 5.0
    assert backlog.seconds_before(DECODE, 1, 80) == 10 * 5.0 + 2 * 2.0
    assert backlog.seconds_before(SCORE, 1, 0) == 2.0 + 5.0
    assert backlog.seconds() == 2 * 2.0 + 10 * 5.0


def test_a_batch_takes_what_batches_took_of_late(backlog: Backlog) -> None:
    backlog.count(ENCODE, 8)
    backlog.measure(ENCODE, 12.0)
    assert backlog.seconds() == pytest.approx(PAST * 2.0 + (1 - PAST) * 12.0)


def test_what_was_not_measured_takes_no_time(backlog: Backlog) -> None:
    backlog.count(SCORE, 80)
    assert backlog.seconds() == 0


def test_the_tasks_that_are_remembered_are_bounded(backlog: Backlog) -> None:
    backlog.count(ENCODE, 8)
    backlog.count(DECODE, 8)
    for samples in range(1, MAX_TASKS):
        backlog.measure(ModelTask("m", Operation.SCORE, samples), 1.0)
    assert backlog.seconds() == 5.0  # the oldest is forgotten
