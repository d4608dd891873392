"""The integer mixture: a table for each pixel that sums to TOTAL and follows the float one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.mixture import (
    LEVELS,
    LOGITS,
    MARGIN,
    SCALES,
    Each,
    cumulative,
    find_level,
    likely_level,
    make_tables,
    set_mixtures,
    table_faults,
    workplace,
)
from codec.rans import TOTAL

TABLES = make_tables()
COMPONENT = st.tuples(
    st.integers(0, LOGITS - 1), st.integers(-MARGIN, 255 * 16 + MARGIN), st.integers(0, SCALES - 1)
)
MIXTURES = st.lists(COMPONENT, min_size=1, max_size=5)
Component = tuple[int, int, int]


class Prepared(NamedTuple):
    """A mixture in the middle of three lanes, each of its own."""

    weights: np.ndarray
    locations: np.ndarray
    steepnesses: np.ndarray
    each: Each


LANE = 1


def prepared(mixture: list[Component]) -> Prepared:
    outputs = np.array(mixture, np.int32).T.reshape(1, -1)
    lanes = np.concatenate([outputs[:, ::-1], outputs, 0 * outputs])
    each = (0,) * len(mixture)
    parts = workplace(3, each)
    set_mixtures(lanes, 3, TABLES, each, *parts)
    return Prepared(*parts, each)


def slots(mixture: list[Component]) -> np.ndarray:
    parts = prepared(mixture)
    return np.diff([cumulative(x, LANE, *parts, TABLES.logistic) for x in range(LEVELS + 1)])


def float_probabilities(mixture: list[Component]) -> np.ndarray:
    logits, locations, scales = np.array(mixture, np.float64).T
    weights = np.exp(logits / 16) / np.exp(logits / 16).sum()
    edges = np.arange(LEVELS + 1)[:, None] - 0.5
    below = 1 / (1 + np.exp(-np.clip((edges - locations / 16) / (2 ** (scales / 12) / 16), -700, 700)))
    below[0], below[-1] = 0, 1
    return np.diff(below @ weights)


@settings(deadline=None)
@given(MIXTURES)
def test_every_level_has_a_slot_and_all_have_the_total(mixture: list[Component]) -> None:
    counted = slots(mixture)
    assert counted.min() >= 1
    assert counted.sum() == TOTAL


@settings(deadline=None)
@given(MIXTURES)
def test_it_costs_no_more_than_the_float_mixture(mixture: list[Component]) -> None:
    exact = float_probabilities(mixture)
    excess = np.sum(exact * np.log2(np.maximum(exact, 1e-300) / (slots(mixture) / TOTAL)))
    assert excess < 1e-3  # bits a pixel


@settings(deadline=None)
@given(MIXTURES, st.integers(0, TOTAL - 1))
def test_the_level_of_a_slot_is_found(mixture: list[Component], slot: int) -> None:
    parts = prepared(mixture)
    level, start, end = find_level(slot, LANE, *parts, TABLES.logistic)
    assert start <= slot < end
    assert start == cumulative(level, LANE, *parts, TABLES.logistic)
    assert end == cumulative(level + 1, LANE, *parts, TABLES.logistic)


@settings(deadline=None)
@given(MIXTURES)
def test_weights_are_the_exact_quotients_and_the_first_of_the_largest_has_the_rest(
    mixture: list[Component],
) -> None:
    logits = [logit for logit, _, _ in mixture]
    shares = [int(TABLES.exponentials[max(logits) - logit]) for logit in logits]
    expected = [(share << 16) // sum(shares) for share in shares]
    expected[logits.index(max(logits))] += 2**16 - sum(expected)
    assert prepared(mixture).weights[LANE].tolist() == expected


def test_outputs_beyond_their_range_count_as_its_ends() -> None:
    beyond = prepared([(999, -9999, -1), (-5, 9999, 999)])
    within = prepared([(LOGITS - 1, -MARGIN, 0), (0, 255 * 16 + MARGIN, SCALES - 1)])
    for name in ("weights", "locations", "steepnesses"):
        np.testing.assert_array_equal(getattr(beyond, name)[LANE], getattr(within, name)[LANE])


@settings(deadline=None)
@given(MIXTURES)
def test_the_likely_level_is_that_of_the_heaviest_component(mixture: list[Component]) -> None:
    parts = prepared(mixture)
    best = int(np.argmax(parts.weights[LANE]))
    expected = min(max((mixture[best][1] + 8) // 16, 0), LEVELS - 1)
    assert likely_level(LANE, parts.weights, parts.locations, parts.each) == expected


def test_weights_are_the_softmax_of_logits_in_sixteenths_and_sum_to_one() -> None:
    weights = prepared([(100, 0, 0), (116, 0, 0), (84, 0, 0)]).weights[LANE]
    np.testing.assert_allclose(weights / 2**16, np.exp([0, 1, -1]) / np.exp([0, 1, -1]).sum(), atol=1e-4)
    assert weights.sum() == 2**16


@pytest.mark.parametrize(
    ("field", "entry", "value", "fault"),
    [
        ("exponentials", 0, 2**16 - 1, "tables.exponentials: do not fall from 2^16 to 0 or above"),
        ("exponentials", LOGITS - 1, -1, "tables.exponentials: do not fall from 2^16 to 0 or above"),
        ("exponentials", 5, 2**16 + 1, "tables.exponentials: do not fall from 2^16 to 0 or above"),
        ("logistic", 1, 2**24, "tables.logistic: does not rise from 0 to 2^24"),
        ("logistic", 0, 1, "tables.logistic: does not rise from 0 to 2^24"),
        ("steepnesses", 3, -1, "tables.steepnesses: one is outside 0 … 2097152"),
        ("steepnesses", 3, 2**21 + 1, "tables.steepnesses: one is outside 0 … 2097152"),
    ],
)
def test_tables_that_make_no_distribution_are_named(field: str, entry: int, value: int, fault: str) -> None:
    broken = getattr(TABLES, field).copy()
    broken[entry] = value
    assert table_faults(TABLES._replace(**{field: broken})) == [fault]


def test_tables_that_are_made_here_have_no_fault() -> None:
    assert table_faults(TABLES) == []


@pytest.mark.parametrize(
    ("mixture", "golden"),
    [
        ([(0, 128 * 16, 60)], (1, 1, 122657, 130362, 122657, 1)),
        ([(200, 0, 0), (190, 4080, 100)], (682614, 230, 32, 34, 36, 185007)),
    ],
)
def test_slots_are_these(mixture: list[Component], golden: tuple[int, ...]) -> None:
    assert tuple(slots(mixture)[[0, 1, 127, 128, 129, 255]]) == golden
