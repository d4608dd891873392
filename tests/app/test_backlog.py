"""How long what waits takes, by hand."""

import pytest

from app.backlog import MOST_TIMES, PAST, Backlog, Cost
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


def test_whole_batches_before_a_job_are_waited_for_but_one(backlog: Backlog) -> None:
    backlog.count(ENCODE, 25)  # of 25 jobs
    assert backlog
    assert backlog.seconds_before(ENCODE, 1, 25) == (3 - 1) * 2.0
    backlog.count(ENCODE, -17)
    assert backlog.seconds_before(ENCODE, 1, 8) == 0
    backlog.count(ENCODE, -7)
    assert backlog.seconds_before(ENCODE, 1, 1) == 0  # it has room in the next batch
    assert backlog.seconds() == 2.0 / ROOM
    backlog.count(ENCODE, -1)
    assert not backlog


def test_a_small_job_does_not_wait_for_the_whole_of_a_large_one(backlog: Backlog) -> None:
    backlog.count(ENCODE, 800)
    assert backlog.seconds_before(ENCODE, 1, 1) == 0
    assert backlog.seconds_before(ENCODE, 80, 1) == (10 - 1) * 2.0
    assert backlog.seconds_before(ENCODE, 8000, 1) == (100 - 1) * 2.0


def test_other_tasks_have_as_many_turns_and_the_longest_does_not_count(backlog: Backlog) -> None:
    backlog.count(ENCODE, 16)
    backlog.count(DECODE, 80)
    assert backlog.seconds_before(ENCODE, 1, 16) == 2 * 2.0 + (3 - 1) * 5.0
    assert backlog.seconds_before(DECODE, 1, 80) == (10 - 1) * 5.0 + 2 * 2.0
    assert backlog.seconds_before(SCORE, 1, 0) == 2.0
    assert backlog.seconds() == 2 * 2.0 + 10 * 5.0


def test_one_task_of_long_batches_keeps_no_other_out(backlog: Backlog) -> None:
    backlog.measure(SCORE, ROOM, 1000.0)
    backlog.count(SCORE, 800)
    assert backlog.seconds_before(ENCODE, 1, 0) == 0
    backlog.count(ENCODE, ROOM)
    assert backlog.seconds_before(ENCODE, 1, ROOM) == 1000.0 + 2.0


def test_a_batch_that_is_not_full_takes_its_part(backlog: Backlog) -> None:
    backlog.measure(ENCODE, ROOM // 2, 1.25)  # 0.5 s of its own
    backlog.count(ENCODE, ROOM + 2)
    assert backlog.seconds() == pytest.approx(2.0 + 0.5 + 2 * 1.5 / ROOM)


def test_lone_images_do_not_make_full_batches_forgotten() -> None:
    cost = Cost()
    cost.measure(ROOM, ROOM, 4.0)
    for _ in range(200):
        cost.measure(1, ROOM, 1.0)
    assert cost.of(1) == pytest.approx(1.0)
    assert cost.of(ROOM) == pytest.approx(4.0)
    for _ in range(100):
        cost.measure(ROOM, ROOM, 8.0)
    assert cost.of(ROOM) == pytest.approx(8.0, rel=0.01)


def test_as_long_as_lone_images_are_all_that_is_known_a_full_batch_takes_as_many_times_as_long() -> None:
    cost = Cost()
    for _ in range(10):
        cost.measure(1, ROOM, 1.0)
    assert cost.of(ROOM) == pytest.approx(ROOM)
    cost.measure(ROOM, ROOM, 2.0)  # which is believed at once
    assert cost.of(ROOM) == pytest.approx(2.0)


@pytest.mark.parametrize(("small", "large"), [(5.0, 1.0), (1.0, 100.0)])
def test_no_batch_takes_less_for_being_larger_and_no_image_more(small: float, large: float) -> None:
    cost = Cost()
    cost.measure(4, ROOM, small)
    cost.measure(ROOM, ROOM, large)
    assert 0 < cost.of(1) <= cost.of(ROOM) <= ROOM * cost.of(1) * (1 + 1e-9)
    assert cost.of(0) == 0


def test_a_batch_in_which_the_process_was_stopped_is_not_believed(backlog: Backlog) -> None:
    backlog.count(ENCODE, ROOM)
    backlog.measure(ENCODE, ROOM, 3600.0)
    assert backlog.seconds() == pytest.approx((PAST * 2.0 + MOST_TIMES * 2.0) / (PAST + 1))


@pytest.mark.parametrize(
    ("samples", "seconds"), [(1, 0.25), (2, 0.5), (4, 1.0), (8, 2.0), (16, 4.0), (800, 200.0)]
)
def test_what_samples_cost_is_known_of_any_number_once_it_is_of_one(samples: int, seconds: float) -> None:
    backlog = Backlog(lambda task: max(1, ROOM // task.samples))
    backlog.measure(ModelTask("m", Operation.SCORE, 4), 2, 2.0)
    backlog.count(ModelTask("m", Operation.SCORE, samples), 1)
    backlog.count(DECODE, 1)
    backlog.measure(DECODE, 1, 1000.0)
    assert backlog.seconds() == 1000.0 + seconds
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
