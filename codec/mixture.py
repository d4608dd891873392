"""A mixture of discretised logistics over the levels 0 … 255, in integers: the same table on every machine.

    logits ─► weights, which sum to 2^16 ─┐
    locations, scales ────────────────────┴─► cumulative(x) = Σ weight · S((x − ½ − location) / scale)

S is the logistic function, a table with linear interpolation. The tables are made once, when a codec is
exported, and travel with it: no exponential is computed where payloads are.

`each` is a tuple with an entry a component: its type tells the compiler how long the loops are, which makes
them several times faster than loops over an array's length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numba import njit

from codec.rans import TOTAL

LEVELS = 256
LOGITS = 256  # a logit is an index 0 … LOGITS − 1, in steps of 1/16 nat
LOGIT_STEPS = 16
LOCATION_STEPS = 16  # a location is an integer number of 1/16 levels
SCALES = 128  # a scale is an index: LOWEST_SCALE · 2^(index / SCALES_AN_OCTAVE) levels
SCALES_AN_OCTAVE = 12
_WEIGHT_BITS = 16
_LOGISTIC_BITS = 24
_ENTRIES_A_UNIT = 32  # of the logistic table
_HALF_RANGE = 16  # units: beyond, the logistic function is 0 or 1
_FRACTION_BITS = 16
Each = tuple[int, ...]
_LAST = 2 * _HALF_RANGE * _ENTRIES_A_UNIT
LOGISTIC_ENTRIES = _LAST + 1


class MixtureTables(NamedTuple):
    """What `set_weights` and `cumulative` look up."""

    exponentials: Int64[np.ndarray, " logit"]  # 2^16 · exp(−i / LOGIT_STEPS)
    steepnesses: Int64[np.ndarray, " scale"]  # 2^16 · table entries for 1/16 level
    logistic: Int64[np.ndarray, " entry"]  # 2^24 / (1 + exp(−u)), u from −16 to 16


def make_tables() -> MixtureTables:
    """Compute the tables in float64, to be stored: another machine's exp may differ in a last bit."""
    logistic = np.round(
        2**_LOGISTIC_BITS / (1 + np.exp(-(np.arange(_LAST + 1) / _ENTRIES_A_UNIT - _HALF_RANGE)))
    )
    logistic[0], logistic[-1] = 0, 2**_LOGISTIC_BITS
    octaves = np.arange(SCALES) / SCALES_AN_OCTAVE
    return MixtureTables(
        np.round(2**_WEIGHT_BITS * np.exp(-np.arange(LOGITS) / LOGIT_STEPS)).astype(np.int64),
        np.round(2**_FRACTION_BITS * _ENTRIES_A_UNIT / 2**octaves).astype(np.int64),
        logistic.astype(np.int64),
    )


def table_faults(tables: MixtureTables) -> list[str]:
    """Return why tables do not make distributions: they must keep a cumulative function rising to TOTAL."""
    logistic, exponentials = tables.logistic, tables.exponentials
    faults = []
    # Each is within its range before any difference is taken: that of two others might wrap around.
    if (logistic < 0).any() or logistic[0] != 0 or logistic[-1] != 2**_LOGISTIC_BITS or _falls(logistic):
        faults.append("tables.logistic: does not rise from 0 to 2^24")
    if (exponentials < 0).any() or exponentials[0] != 2**_WEIGHT_BITS or _falls(-exponentials):
        faults.append("tables.exponentials: do not fall from 2^16 to 0 or above")
    steepest = 2**_FRACTION_BITS * _ENTRIES_A_UNIT
    if tables.steepnesses.min() < 0 or tables.steepnesses.max() > steepest:
        faults.append(f"tables.steepnesses: one is outside 0 … {steepest}")
    return faults


def _falls(values: Int64[np.ndarray, " value"]) -> bool:
    return bool((values[1:] < values[:-1]).any())


@njit(cache=True, nogil=True)
def set_weights(mixtures: np.ndarray, n: int, each: Each, exponentials: np.ndarray) -> int:
    """Replace the logits' indices of mixture `n` by their softmax, summing to 2^16 exactly.

    Return the component of the largest.
    """
    best = 0
    for k in range(1, len(each)):
        if mixtures[n, 0, k] > mixtures[n, 0, best]:
            best = k
    highest, total = mixtures[n, 0, best], 0
    for k in range(len(each)):
        mixtures[n, 0, k] = exponentials[highest - mixtures[n, 0, k]]
        total += mixtures[n, 0, k]
    left = 1 << _WEIGHT_BITS
    for k in range(len(each)):
        mixtures[n, 0, k] = (mixtures[n, 0, k] << _WEIGHT_BITS) // total
        left -= mixtures[n, 0, k]
    mixtures[n, 0, best] += left
    return best


@njit(cache=True, nogil=True)
def cumulative(x: int, mixtures: np.ndarray, n: int, each: Each, logistic: np.ndarray) -> int:
    """Return how many of TOTAL slots the levels below x own in mixture `n`: each level has at least one.

    A mixture is three rows: weights, locations, steepnesses.
    """
    if x <= 0:
        return 0
    if x >= LEVELS:
        return TOTAL
    mass = 0
    for k in range(len(each)):
        distance = LOCATION_STEPS * x - LOCATION_STEPS // 2 - mixtures[n, 1, k]
        place = distance * mixtures[n, 2, k] + (_LAST // 2 << _FRACTION_BITS)
        place = min(max(place, 0), _LAST << _FRACTION_BITS)
        entry = min(place >> _FRACTION_BITS, _LAST - 1)
        fraction = place - (entry << _FRACTION_BITS)
        low, high = logistic[entry], logistic[entry + 1]
        mass += mixtures[n, 0, k] * (low + ((high - low) * fraction >> _FRACTION_BITS))
    return x + ((mass >> _WEIGHT_BITS) * (TOTAL - LEVELS) >> _LOGISTIC_BITS)


@njit(cache=True, nogil=True)
def find_level(
    slot: int, mixtures: np.ndarray, n: int, best: int, each: Each, logistic: np.ndarray
) -> tuple[int, int, int]:
    """Return the level that owns a slot in mixture `n`, its first slot, and the next level's.

    The search begins at the location of component `best`.
    """
    guess = (mixtures[n, 1, best] + LOCATION_STEPS // 2) // LOCATION_STEPS
    low, low_start, high, high_start = 0, 0, LEVELS, TOTAL
    middle, step = min(max(guess, 1), LEVELS - 1), 0
    while high - low > 1:
        start = cumulative(middle, mixtures, n, each, logistic)
        if start <= slot:
            low, low_start = middle, start
        else:
            high, high_start = middle, start
        step = 2 * step + 1
        if high == LEVELS and low + step < LEVELS:
            middle = low + step
        elif low == 0 and high - step > 0:
            middle = high - step
        else:
            middle = (low + high) >> 1
    return low, low_start, high_start
