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

from codec.compiled import compiled, inlined
from codec.rans import TOTAL, TOTAL_BITS

LEVELS = 256
LOGITS = 256  # a logit is an index 0 … LOGITS − 1, in steps of 1/16 nat
LOGIT_STEPS = 16
LOCATION_STEPS = 16  # a location is an integer number of 1/16 levels
MARGIN = 32 * LOCATION_STEPS  # a location may lie outside the levels by as much
SCALES = 128  # a scale is an index: LOWEST_SCALE · 2^(index / SCALES_AN_OCTAVE) levels
SCALES_AN_OCTAVE = 12
_WEIGHT_BITS = 16
_LOGISTIC_BITS = 24
_ENTRIES_A_UNIT = 32  # of the logistic table
_HALF_RANGE = 16  # units: beyond, the logistic function is 0 or 1
_FRACTION_BITS = 16
MEAN_PARTS = 8
Each = tuple[int, ...]
_LAST = 2 * _HALF_RANGE * _ENTRIES_A_UNIT
LOGISTIC_ENTRIES = _LAST + 1


# What a logistic takes to reach a slot, in 1/16 levels times its steepness; in 1024 steps.
_LOGIT_SHIFT = TOTAL_BITS - 10
_SHARES = (np.arange(1 << 10) + 0.5) / (1 << 10)
_LOGITS = np.log(_SHARES / (1 - _SHARES)) * (_ENTRIES_A_UNIT << _FRACTION_BITS)


class MixtureTables(NamedTuple):
    """What `set_mixtures` and `cumulative` look up."""

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


@inlined
def set_mixtures(
    outputs: np.ndarray,
    lanes: int,
    tables: MixtureTables,
    each: Each,
    weights: np.ndarray,
    locations: np.ndarray,
    steepnesses: np.ndarray,
) -> None:
    """Fill the mixtures (lane, K) of a network's outputs (lane; logits, locations, scales).

    Weights are the softmax of the logits and sum to 2^16 exactly: the first of the largest has what is left.
    """
    exponentials, steepness_of = tables.exponentials, tables.steepnesses
    for n in range(lanes):
        highest, best = -1, 0
        for k in range(len(each)):
            logit = min(max(outputs[n, k], 0), LOGITS - 1)
            if logit > highest:
                highest, best = logit, k
        total = 0
        for k in range(len(each)):
            total += exponentials[highest - min(max(outputs[n, k], 0), LOGITS - 1)]
        left = 1 << _WEIGHT_BITS
        for k in range(len(each)):
            share = exponentials[highest - min(max(outputs[n, k], 0), LOGITS - 1)] << _WEIGHT_BITS
            # Below 2^33, divided by less than 2^23: the float quotient never reaches the next integer.
            weights[n, k] = np.int64(share / total)
            left -= weights[n, k]
        for k in range(len(each)):
            weights[n, k] += left if k == best else 0
    for n in range(lanes):
        for k in range(len(each)):
            location = outputs[n, len(each) + k]
            locations[n, k] = min(max(location, -MARGIN), (LEVELS - 1) * LOCATION_STEPS + MARGIN)
            scale = min(max(outputs[n, 2 * len(each) + k], 0), SCALES - 1)
            steepnesses[n, k] = steepness_of[scale]


@compiled
def workplace(lanes: int, each: Each) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return room for the weights, locations and steepnesses that `set_mixtures` fills."""
    size = (lanes, len(each))
    return np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)


@inlined
def cumulative(
    x: int,
    n: int,
    weights: np.ndarray,
    locations: np.ndarray,
    steepnesses: np.ndarray,
    each: Each,
    logistic: np.ndarray,
) -> int:
    """Return how many of TOTAL slots the levels below x own in lane n's mixture: a level has at least one."""
    if x <= 0:
        return 0
    if x >= LEVELS:
        return TOTAL
    mass = 0
    for k in range(len(each)):
        distance = LOCATION_STEPS * x - LOCATION_STEPS // 2 - locations[n, k]
        place = distance * steepnesses[n, k] + (_LAST // 2 << _FRACTION_BITS)
        place = min(max(place, 0), _LAST << _FRACTION_BITS)
        entry = min(place >> _FRACTION_BITS, _LAST - 1)
        fraction = place - (entry << _FRACTION_BITS)
        low, high = logistic[entry], logistic[entry + 1]
        mass += weights[n, k] * (low + ((high - low) * fraction >> _FRACTION_BITS))
    return x + ((mass >> _WEIGHT_BITS) * (TOTAL - LEVELS) >> _LOGISTIC_BITS)


@inlined
def levels_near(level: int, max_error: int) -> tuple[int, int]:
    """Return the first of the levels that are coded as the same one, and the one after the last.

    They are 2·max_error + 1 levels around a multiple of as many, some of them perhaps outside 0 … 255.
    """
    if max_error == 0:
        return level, level + 1
    step = 2 * max_error + 1
    first = (level + max_error) // step * step - max_error
    return first, first + step


@inlined
def widened(
    level: int,
    max_error: int,
    n: int,
    weights: np.ndarray,
    locations: np.ndarray,
    steepnesses: np.ndarray,
    each: Each,
    logistic: np.ndarray,
) -> tuple[int, int, int]:
    """Return the level that one is coded as, the first slot of all that are, and the first after them."""
    low, high = levels_near(level, max_error)
    start = cumulative(low, n, weights, locations, steepnesses, each, logistic)
    end = cumulative(high, n, weights, locations, steepnesses, each, logistic)
    return min(low + max_error, LEVELS - 1), start, end


@inlined
def mean_level(
    low: int,
    high: int,
    start: int,
    end: int,
    n: int,
    weights: np.ndarray,
    locations: np.ndarray,
    steepnesses: np.ndarray,
    each: Each,
    logistic: np.ndarray,
) -> int:
    """Return the mean of levels low … high − 1, which own the slots start … end − 1, rounded, halves up.

    Of many levels, those of each of MEAN_PARTS parts count as the middle of their part.
    """
    low, high = max(low, 0), min(high, LEVELS)
    parts = min(high - low, MEAN_PARTS)
    twice, first, before = 0, low, start
    for part in range(1, parts + 1):
        last, after = high, end
        if part < parts:
            last = low + (high - low) * part // parts
            after = cumulative(last, n, weights, locations, steepnesses, each, logistic)
        twice += (first + last - 1) * (after - before)
        first, before = last, after
    return (twice + end - start) // (2 * (end - start))


@inlined
def likely_level(n: int, weights: np.ndarray, locations: np.ndarray, each: Each) -> int:
    """Return the level at the location of the heaviest component of lane n's mixture."""
    best = 0
    for k in range(1, len(each)):
        best = k if weights[n, k] > weights[n, best] else best
    return min(max((locations[n, best] + LOCATION_STEPS // 2) // LOCATION_STEPS, 0), LEVELS - 1)


@inlined
def find_level(
    slot: int,
    n: int,
    weights: np.ndarray,
    locations: np.ndarray,
    steepnesses: np.ndarray,
    each: Each,
    logistic: np.ndarray,
) -> tuple[int, int, int]:
    """Return the level that owns a slot in lane n's mixture, its first slot, and the next level's.

    From where the slot would be if the heaviest component were alone, a few steps of Newton's method, each
    twice as long as the last at most, then bisection. Where they go is in floats and does not matter: the
    level is the same.
    """
    best = 0
    for k in range(1, len(each)):
        best = k if weights[n, k] > weights[n, best] else best
    spread = _LOGITS[slot >> _LOGIT_SHIFT] / max(1, steepnesses[n, best])
    x = (locations[n, best] + np.int64(spread) + LOCATION_STEPS // 2) // LOCATION_STEPS
    low, high, longest = 0, LEVELS - 1, np.float32(4)
    while True:
        x = min(max(x, low), high)
        start = cumulative(x, n, weights, locations, steepnesses, each, logistic)
        end = cumulative(x + 1, n, weights, locations, steepnesses, each, logistic)
        if slot < start:
            high = x - 1
        elif slot >= end:
            low = x + 1
        else:
            return x, start, end
        if longest < LEVELS:
            step = np.float32(slot - start) / np.float32(end - start)
            x += np.int64(min(max(step, -longest), longest)) - (slot < start)
            longest *= np.float32(2)
        else:
            x = (low + high) >> 1
