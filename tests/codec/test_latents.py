"""Integer latents: tables that give every value a slot, and back."""

from __future__ import annotations

import numpy as np
import pytest

from codec import rans
from codec.latents import (
    LatentTables,
    decode_latents,
    fit_latent_tables,
    latent_faults,
    slots_of_latents,
    within,
)
from codec.rans import TOTAL

K = np.array([[-2, 0, 127], [1, 0, -127], [-2, 0, 0], [-1, 0, 5]], np.int8)
TABLES = fit_latent_tables(K)


def test_values_get_slots_by_their_counts_and_half_a_count_more() -> None:
    assert TABLES.lowest.tolist() == [-2, 0, -127]
    first = np.diff(TABLES.starts[TABLES.first[0] : TABLES.first[1]])
    np.testing.assert_allclose(first / TOTAL, np.array([2.5, 1.5, 0.5, 1.5]) / 6, atol=1e-5)


def test_a_dimension_with_one_value_costs_nothing() -> None:
    assert TABLES.starts[TABLES.first[1] : TABLES.first[2]].tolist() == [0, TOTAL]


def test_they_come_back_from_a_stream() -> None:
    state, words = rans.opened(rans.encode(*slots_of_latents(K, TABLES)))
    k, state, count = decode_latents(state, words, len(words), len(K), TABLES)
    np.testing.assert_array_equal(k, K)
    assert (state, count) == (0, 0)


def test_values_that_the_tables_do_not_know_are_clipped() -> None:
    assert within(np.array([[-9, 3, 1]], np.int8), TABLES).tolist() == [[-2, 0, 1]]


def changed(field: str, entry: int, value: int) -> LatentTables:
    array = getattr(TABLES, field).copy()
    array[entry] = value
    return TABLES._replace(**{field: array})


@pytest.mark.parametrize(
    ("field", "entry", "value", "fault"),
    [
        ("first", 0, 1, "latents.first: does not divide latents.starts, two entries or more a dimension"),
        ("first", 1, 6, "latents.first: does not divide latents.starts, two entries or more a dimension"),
        ("first", 3, 999, "latents.first: does not divide latents.starts, two entries or more a dimension"),
        ("lowest", 2, -128, "latents.lowest: a value is outside ±127"),
        ("lowest", 2, -126, "latents.lowest: a value is outside ±127"),
        ("starts", 1, 0, "latents.starts: those of dimension 0 do not rise from 0 to 2^20"),
        ("starts", 0, 1, "latents.starts: those of dimension 0 do not rise from 0 to 2^20"),
        ("starts", 6, 5, "latents.starts: those of dimension 1 do not rise from 0 to 2^20"),
    ],
)
def test_tables_that_are_none_are_named(field: str, entry: int, value: int, fault: str) -> None:
    assert fault in latent_faults("latents", changed(field, entry, value))


def test_fitted_tables_have_no_fault() -> None:
    assert latent_faults("latents", TABLES) == []
