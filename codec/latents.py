"""Integer latents as symbols: each dimension's table is how often training images took each value."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from codec.compiled import compiled
from codec.networks import LARGEST_LATENT, FinerLatents, Latents
from codec.rans import TOTAL, pop


class LatentTables(NamedTuple):
    """The values lowest … highest of each dimension, and their shares of TOTAL slots; of none perhaps."""

    lowest: Int32[np.ndarray, " latent"]
    first: Int32[np.ndarray, " latent+1"]  # of a dimension's entries in `starts`: one a value, and TOTAL
    starts: Int32[np.ndarray, " entry"]


NO_LATENTS = LatentTables(np.zeros(0, np.int32), np.zeros(1, np.int32), np.zeros(0, np.int32))


def fit_latent_tables(k: Latents | FinerLatents) -> LatentTables:
    """Count the values of each dimension, half a count more for each between the lowest and the highest."""
    lowest, highest = k.min(axis=0).astype(np.int32), k.max(axis=0).astype(np.int32)
    tables = []
    for d, (low, high) in enumerate(zip(lowest, highest, strict=True)):
        counts = np.bincount(k[:, d].astype(np.int64) - low, minlength=high - low + 1) + 0.5
        cumulative = np.concatenate([[0.0], np.cumsum(counts / counts.sum())])
        values = np.arange(len(cumulative))
        tables.append(values + np.floor(cumulative * (TOTAL - values[-1])).astype(np.int64))
        tables[-1][-1] = TOTAL
    first = np.cumsum([0, *map(len, tables)])
    return LatentTables(lowest, first.astype(np.int32), np.concatenate(tables).astype(np.int32))


def latent_faults(part: str, tables: LatentTables, largest: int = LARGEST_LATENT) -> list[str]:
    """Return why tables do not share out the slots: each value must own one at least."""
    lowest, first, starts = (part.astype(np.int64) for part in tables)  # no difference wraps around
    if first[0] != 0 or first[-1] != len(starts) or (np.diff(first) < 2).any():
        return [f"{part}.first: does not divide {part}.starts, two entries or more a dimension"]
    highest = lowest + np.diff(first) - 2
    faults = []
    if (lowest < -largest).any() or (highest > largest).any():
        faults.append(f"{part}.lowest: a value is outside ±{largest}")
    for d, table in enumerate(np.split(starts, first[1:-1]) if len(lowest) else ()):
        if table[0] != 0 or table[-1] != TOTAL or (np.diff(table) < 1).any():
            faults.append(f"{part}.starts: those of dimension {d} do not rise from 0 to 2^20")
    return faults


def within(k: Latents, tables: LatentTables) -> Latents:
    """Return latents clipped to the values that the tables know."""
    highest = tables.lowest + np.diff(tables.first) - 2
    return k.clip(tables.lowest, highest).astype(np.int8)


def slots_of_latents(
    k: Latents, tables: LatentTables
) -> tuple[Int64[np.ndarray, " symbol"], Int64[np.ndarray, " symbol"]]:
    """Return the first slot and the number of slots of every latent, image after image."""
    entries = (k - tables.lowest + tables.first[:-1]).ravel()
    starts = tables.starts[entries].astype(np.int64)
    return starts, tables.starts[entries + 1] - starts


@compiled
def decode_latents(
    state: int, words: np.ndarray, count: int, images: int, tables: LatentTables
) -> tuple[np.ndarray, int, int]:
    """Return the latents (N,D) that a stream goes on with, and the state and words after them."""
    dimensions = len(tables.lowest)
    k = np.empty((images, dimensions), np.int8)
    for n in range(images):
        for d in range(dimensions):
            k[n, d], state, count = pop_latent(state, words, count, d, tables)
    return k, state, count


@compiled
def pop_latent(
    state: int, words: np.ndarray, count: int, d: int, tables: LatentTables
) -> tuple[int, int, int]:
    """Return the next latent, of dimension d, and the state and words after it."""
    slot = state & (TOTAL - 1)
    low, high = tables.first[d], tables.first[d + 1] - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if tables.starts[middle] <= slot:
            low = middle
        else:
            high = middle
    start = tables.starts[low]
    state, count = pop(state, start, tables.starts[low + 1] - start, words, count)
    return tables.lowest[d] + low - tables.first[d], state, count
