"""How long what waits takes, by hand."""

import pytest

from app.backlog import MOST_TIMES, PAST, Backlog
from app.operations import ModelTask, Operation
from codec.encoding import Manner

ENCODE, DECODE, SCORE = (
    ModelTask("m", operation) for operation in (Operation.ENCODE, Operation.DECODE, Operation.SCORE)
)
ROOM = 8


@pytest.fixture
def backlog() -> Backlog:
    """Return one whose batches have 8 images, or samples of them, and take 2 s to encode, 5 to decode."""
    backlog = Backlog(lambda task: max(1, ROOM // task.samples))
    backlog.measure(ENCODE, ROOM, 2.0)
    backlog.measure(DECODE, ROOM, 5.0)
    return backlog


def test_nothing_waits_for_nothing(backlog: Backlog) -> None:
    assert not backlog
    assert backlog.seconds() == 0
    assert backlog.seconds_before(ENCODE, 100, 0) == 0


def test_whole_batches_before_a_job_are_waited_for(backlog: Backlog) -> None:
    backlog.count(ENCODE, 17)  # of 17 jobs
    assert backlog
    assert backlog.seconds_before(ENCODE, 1, 17) == 2 * 2.0
    backlog.count(ENCODE, -16)
    assert backlog.seconds_before(ENCODE, 1, 1) == 0  # it has room in the next batch
    assert backlog.seconds() == 2.0
    backlog.count(ENCODE, -1)
    assert not backlog


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


def test_a_full_batch_tells_more_than_a_lone_image() -> None:
    backlog = Backlog(lambda task: ROOM)
    backlog.count(ENCODE, ROOM)
    for _ in range(1000):
        backlog.measure(ENCODE, 1, 1.0)
    assert backlog.seconds() == pytest.approx(1.0)
    backlog.measure(ENCODE, ROOM, 4.0)
    past = PAST * 1 / (1 - PAST)  # images that the hundred come to
    assert backlog.seconds() == pytest.approx((past * 1.0 + ROOM * 4.0) / (past + ROOM))


def test_a_batch_in_which_the_process_was_stopped_is_not_believed(backlog: Backlog) -> None:
    backlog.count(ENCODE, ROOM)
    backlog.measure(ENCODE, ROOM, 3600.0)
    assert backlog.seconds() == pytest.approx((PAST * 2.0 + MOST_TIMES * 2.0) / (PAST + 1))


@pytest.mark.parametrize(("samples", "seconds"), [(1, 2.0), (2, 2.0), (8, 2.0), (16, 4.0), (800, 200.0)])
def test_what_samples_cost_is_known_of_any_number_once_it_is_of_one(samples: int, seconds: float) -> None:
    backlog = Backlog(lambda task: max(1, ROOM // task.samples))
    backlog.measure(ModelTask("m", Operation.SCORE, 4), 2, 2.0)
    backlog.count(ModelTask("m", Operation.SCORE, samples), 1)
    assert backlog.seconds() == seconds
    assert backlog.seconds_before(ModelTask("m", Operation.SCORE, 3), 1, 0) == seconds


def test_a_quality_tells_nothing_of_what_is_lossless(backlog: Backlog) -> None:
    backlog.measure(ModelTask("m", Operation.COMPRESS, manner=Manner(quality=50)), ROOM, 80.0)
    backlog.measure(ModelTask("m", Operation.COMPRESS), ROOM, 8.0)
    backlog.count(ModelTask("m", Operation.COMPRESS), ROOM)
    assert backlog.seconds() == 8.0
    backlog.count(ModelTask("m", Operation.COMPRESS, manner=Manner(quality=40)), ROOM)
    assert backlog.seconds() == 88.0


def test_what_was_not_measured_takes_no_time(backlog: Backlog) -> None:
    backlog.count(SCORE, 80)
    assert backlog.seconds() == 0
