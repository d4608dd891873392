"""The entropy coder: what goes in comes out, in close to no more bits than the model says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from codec.rans import TOTAL, StreamError, encode, opened, pop


@njit
def _decode(state: int, words: np.ndarray, bounds: np.ndarray, symbols: np.ndarray) -> int:
    count = len(words)
    for i in range(len(symbols)):
        slot = state & (TOTAL - 1)
        symbol = np.searchsorted(bounds, slot, side="right") - 1
        start = bounds[symbol]
        state, count = pop(state, start, bounds[symbol + 1] - start, words, count)
        symbols[i] = symbol
    return state + count


def decode(stream: bytes, bounds: np.ndarray, count: int) -> np.ndarray:
    state, words = opened(stream)
    symbols = np.empty(count, np.int64)
    assert _decode(state, words, bounds, symbols) == 0, "the state and the words are used up"
    return symbols


def encoded(symbols: np.ndarray, bounds: np.ndarray) -> bytes:
    return encode(bounds[symbols], np.diff(bounds)[symbols])


def bounds_of(frequencies: list[int]) -> np.ndarray:
    """Slots in proportion to these, each at least one, TOTAL in all."""
    share = np.array(frequencies, np.float64) / sum(frequencies)
    slots = 1 + np.floor(share * (TOTAL - len(frequencies))).astype(np.int64)
    slots[0] += TOTAL - slots.sum()
    return np.concatenate([[0], np.cumsum(slots)])


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=9), st.integers(0, 300), st.integers(0, 2**32 - 1)
)
def test_symbols_come_back_and_use_the_stream_up(frequencies: list[int], count: int, seed: int) -> None:
    bounds = bounds_of(frequencies)
    symbols = np.random.default_rng(seed).integers(0, len(frequencies), count)  # not as likely as they say
    np.testing.assert_array_equal(decode(encoded(symbols, bounds), bounds, count), symbols)


def test_the_rarest_symbols_come_back() -> None:
    bounds = np.array([0, TOTAL - 2, TOTAL - 1, TOTAL])
    symbols = np.array([1, 2, 2, 1, 0, 2] * 50)
    np.testing.assert_array_equal(decode(encoded(symbols, bounds), bounds, 300), symbols)


def test_a_certain_symbol_costs_nothing() -> None:
    assert encoded(np.zeros(10_000, np.int64), np.array([0, TOTAL])) == b""


@pytest.mark.parametrize("count", [100, 10_000])
def test_the_length_is_the_entropy_and_three_bytes_at_most(count: int) -> None:
    bounds = bounds_of([1, 10, 100, 1000, 3])
    share = np.diff(bounds) / TOTAL
    symbols = np.random.default_rng(0).choice(5, count, p=share)
    ideal_bytes = -np.log2(share)[symbols].sum() / 8
    assert ideal_bytes <= len(encoded(symbols, bounds)) <= ideal_bytes * 1.0001 + 3


def test_streams_are_these_bytes() -> None:
    bounds = np.array([0, TOTAL // 2, TOTAL - 1, TOTAL])
    assert encoded(np.array([0, 1, 2, 1, 0, 0, 1, 2, 0, 1]), bounds).hex() == "040001d2500e910059"


def test_a_stream_that_begins_with_zero_is_refused() -> None:
    with pytest.raises(StreamError, match="begins with a zero byte"):
        opened(b"\0" * 9)
