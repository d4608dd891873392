"""The ladder of lossy coding: where an image stands on it, and its latents there.

    rungs 0 … 5    latents alone, in ever shorter steps
    rungs 6 … 16   latents if the codec has features, then each level's bin of 2·error + 1, ever smaller

An image may be on two rungs: the first `part` of PARTS of its latents or pixels are one rung further up. From
the last rung of latents those pixels go to any of the first rungs of levels; the others stay as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from codec.compiled import compiled
from codec.latents import LatentTables, fit_latent_tables, latent_faults, pop_latent
from codec.networks import FINER_BITS, LARGEST_FINER, LARGEST_LATENT, FinerLatents
from codec.rans import TOTAL, pop

STEPS = (16, 12, 8, 6, 4, 3)  # of the rungs of latents, in 2^−FINER_BITS of the codec's
ERRORS = (85, 64, 48, 32, 20, 12, 8, 4, 2, 1, 0)  # of the rungs of levels
RUNGS_OF_LATENTS = len(STEPS)
RUNGS = RUNGS_OF_LATENTS + len(ERRORS)
PARTS = 128
NOT_CODED = 255  # in place of the error of a pixel that has no levels of its own
BINS = 8  # of ERRORS, to which a part of an image of latents may go
_SLOTS_A_RUNG = TOTAL // RUNGS  # and what is left for the last
_BIN_BITS = 17
_PART_BITS = 11  # of the slots of every part but 0
_WHOLE = PARTS - 1 << _PART_BITS  # the first slot of part 0: were it 0, whole images might cost nothing
_NEAR_STEPS = STEPS.index(1 << FINER_BITS)  # the latents of a level's features are those of this rung


class Modes(NamedTuple):
    """Where each image stands on the ladder."""

    rungs: Int64[np.ndarray, " image"]
    parts: Int64[np.ndarray, " image"]
    bins: Int64[np.ndarray, " image"]  # of ERRORS: that of the part, if the rest has no levels

    def of(self, images: Bool[np.ndarray, " image"]) -> Modes:
        """Return those of some images."""
        return Modes(*(part[images] for part in self))


def whole_modes(rungs: Int64[np.ndarray, " image"]) -> Modes:
    """Return the modes of images on one rung each."""
    return Modes(rungs, np.zeros_like(rungs), np.zeros_like(rungs))


def have_levels(modes: Modes) -> Bool[np.ndarray, " image"]:
    """Return which images have levels, some of their pixels at least."""
    return (modes.rungs >= RUNGS_OF_LATENTS) | _have_some_levels(modes)


def _have_some_levels(modes: Modes) -> Bool[np.ndarray, " image"]:
    return (modes.rungs == RUNGS_OF_LATENTS - 1) & (modes.parts > 0)


def fit_ladder(finer: FinerLatents) -> LatentTables:
    """Count the values of each dimension's latents on each rung of latents, rung after rung."""
    every = [quantised(finer, np.full(finer.shape, step)) for step in STEPS]
    return fit_latent_tables(np.concatenate(every, axis=1))


def ladder_faults(tables: LatentTables) -> list[str]:
    """Return why tables cannot be used: those of latents, or latents out of range in their steps."""
    if faults := latent_faults("ladder", tables, LARGEST_FINER):
        return faults
    every, latents = np.array(STEPS), len(tables.lowest) // RUNGS_OF_LATENTS
    highest = tables.lowest + np.diff(tables.first) - 2
    largest = np.maximum(np.abs(tables.lowest), np.abs(highest)).reshape(-1, latents)
    faults = []
    if (largest * every[:, None] > LARGEST_FINER).any():
        faults.append(f"ladder.lowest: a latent in its steps is outside ±{LARGEST_FINER}")
    if (largest[_NEAR_STEPS] > LARGEST_LATENT).any():
        faults.append(f"ladder.lowest: a latent of rung {_NEAR_STEPS} is outside ±{LARGEST_LATENT}")
    return faults


def quantised(finer: FinerLatents, steps: Int64[np.ndarray, "image latent"]) -> FinerLatents:
    """Return latents in steps, those below two thirds of one becoming 0, and so on: zero costs least."""
    magnitude = (3 * np.abs(finer.astype(np.int64)) + steps) // (3 * steps)
    return (np.sign(finer) * np.minimum(magnitude, LARGEST_FINER // steps)).astype(np.int16)


def step_numbers(modes: Modes, latents: int) -> Int64[np.ndarray, "image latent"]:
    """Return which of STEPS each latent has."""
    alone = ~have_levels(modes)
    rungs = np.where(alone, modes.rungs, _NEAR_STEPS)
    further = np.arange(latents) < (modes.parts * latents // PARTS)[:, None]
    return rungs[:, None] + (further & alone[:, None])


def pixel_errors(modes: Modes, height: int, width: int) -> UInt8[np.ndarray, "image height width"]:
    """Return the error of each pixel of images that have levels, or NOT_CODED."""
    pixels = height * width
    further = np.arange(pixels) < (modes.parts * pixels // PARTS)[:, None]
    errors = np.array((*ERRORS, ERRORS[-1], NOT_CODED), np.uint8)
    below = np.where(_have_some_levels(modes), len(errors) - 1, modes.rungs - RUNGS_OF_LATENTS)
    above = np.where(_have_some_levels(modes), modes.bins, below + 1)
    return errors[np.where(further, above[:, None], below[:, None])].reshape(-1, height, width)


def within_tables(
    k: FinerLatents, numbers: Int64[np.ndarray, "image latent"], tables: LatentTables
) -> tuple[FinerLatents, Int64[np.ndarray, "image latent"]]:
    """Return latents clipped to the values that their tables know, and their entries in `tables.starts`."""
    rows = numbers * k.shape[1] + np.arange(k.shape[1])
    lowest, first = tables.lowest[rows].astype(np.int64), tables.first.astype(np.int64)
    k = k.clip(lowest, lowest + first[rows + 1] - first[rows] - 2)
    return k.astype(np.int16), k - lowest + first[rows]


Slots = tuple[Int64[np.ndarray, "image 1"], Int64[np.ndarray, "image 1"]]


def slots_of_rungs(modes: Modes) -> Slots:
    """Return the first slot and the number of slots of each image's rung."""
    starts = (modes.rungs * _SLOTS_A_RUNG)[:, None]
    return starts, np.where(modes.rungs[:, None] == RUNGS - 1, TOTAL - starts, _SLOTS_A_RUNG)


def slots_of_parts(modes: Modes) -> Slots:
    """Return the first slot and the number of slots of each image's part."""
    whole = modes.parts == 0
    starts = np.where(whole, _WHOLE, modes.parts - 1 << _PART_BITS)
    return starts[:, None], np.where(whole, TOTAL - _WHOLE, 1 << _PART_BITS)[:, None]


def slots_of_bins(modes: Modes) -> Slots:
    """Return the first slot and the number of slots of each image's bin; all, where it needs none."""
    needed = _have_some_levels(modes)
    starts = np.where(needed, modes.bins << _BIN_BITS, 0)
    return starts[:, None], np.where(needed, 1 << _BIN_BITS, TOTAL)[:, None]


@compiled
def decode_heads(
    state: int, words: np.ndarray, count: int, images: int, tables: LatentTables, given: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Return the rungs, parts, bins and latents (N,D) of images, and the state and words after them.

    Images on rungs of levels have latents where those are `given`, else zeros.
    """
    latents = len(tables.lowest) // RUNGS_OF_LATENTS
    rungs = np.empty(images, np.int64)
    parts, bins = np.zeros(images, np.int64), np.zeros(images, np.int64)
    k = np.zeros((images, latents), np.int16)
    for n in range(images):
        rungs[n] = min((state & (TOTAL - 1)) // _SLOTS_A_RUNG, RUNGS - 1)
        start = rungs[n] * _SLOTS_A_RUNG
        slots = TOTAL - start if rungs[n] == RUNGS - 1 else _SLOTS_A_RUNG
        state, count = pop(state, start, slots, words, count)
        slot = state & (TOTAL - 1)
        if slot >= _WHOLE:
            state, count = pop(state, _WHOLE, TOTAL - _WHOLE, words, count)
        else:
            parts[n] = 1 + (slot >> _PART_BITS)
            state, count = pop(state, slot >> _PART_BITS << _PART_BITS, 1 << _PART_BITS, words, count)
        below = rungs[n] < RUNGS_OF_LATENTS - 1
        alone = below or (rungs[n] == RUNGS_OF_LATENTS - 1 and parts[n] == 0)
        if not (alone or rungs[n] >= RUNGS_OF_LATENTS):
            bins[n] = (state & (TOTAL - 1)) >> _BIN_BITS
            state, count = pop(state, bins[n] << _BIN_BITS, 1 << _BIN_BITS, words, count)
        number = rungs[n] if alone else _NEAR_STEPS
        further = parts[n] * latents // PARTS if below else 0
        for d in range(latents if given or rungs[n] < RUNGS_OF_LATENTS else 0):
            row = (number + 1 if d < further else number) * latents + d
            k[n, d], state, count = pop_latent(state, words, count, row, tables)
    return rungs, parts, bins, k, state, count
