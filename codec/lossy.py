"""Lossy coding: each image takes the rung of a ladder that is worth its bits.

levels ─► every rung's error and cost ─► rung ─► slots of the rung, the latents and, higher up, the levels
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from codec import rans
from codec.context import code_near
from codec.ladder import (
    NOT_CODED,
    PARTS,
    RUNGS,
    RUNGS_OF_LATENTS,
    STEPS,
    Modes,
    decode_heads,
    have_levels,
    pixel_errors,
    quantised,
    slots_of_bins,
    slots_of_parts,
    slots_of_rungs,
    step_numbers,
    whole_modes,
    within_tables,
)
from codec.model import CodecModel
from codec.networks import Features, FinerLatents, Latents, Levels
from codec.rans import COSTS_A_BIT, TOTAL, StreamError, costs_of

BEST_QUALITY = 99
BINS_TRIED = 5  # finer ones leave few pixels
# What a bit is worth, in squared error: 2^−12 · 16 at worth 0, doubled every WORTHS_AN_OCTAVE.
_WORTHS_AN_OCTAVE = 16
_WORTH_BITS = 12
_MOST_WORTH = 28 * _WORTHS_AN_OCTAVE
_BEST_WORTH = 116  # at quality 99: 0.6; it doubles every six below
_WORTHS_BY_QUALITY = (8, 3)


class Costs(NamedTuple):
    """What each image would cost on each rung."""

    errors: Int64[np.ndarray, "image rung"]  # squared, summed over its levels
    costs: Int64[np.ndarray, "image rung"]  # in COSTS_A_BIT-ths of a bit


def at_quality(costs: Costs, quality: int) -> Modes:
    """Return each image's rung: the least error plus what its bits are worth.

    A higher quality never takes a rung with more error or less cost. What a single image costs is in whole
    bytes, so that its payload never has fewer; a chunk of several may, as the end of its stream costs less
    than the symbols' shares.
    """
    return whole_modes(_best_rungs(costs, _worth_at(quality)))


def best_at_quality(costs: Costs, quality: int) -> int:
    """Return which of several ways to code some images is best, given as rungs of one image."""
    return int(_best_rungs(costs, _worth_at(quality))[0])


def least_cost(costs: Costs) -> int:
    """Return what the images cost where each takes its cheapest rung."""
    return int(costs.costs.min(axis=1).sum())


def within_cost(costs: Costs, most: int) -> tuple[Int64[np.ndarray, " image"], int]:
    """Return rungs of little error that cost no more together, and what they leave.

    `most` is `least_cost` or more.
    """
    images = np.arange(len(costs.costs))
    low, high = 0, _MOST_WORTH
    while low < high:
        middle = (low + high) // 2
        if costs.costs[images, _best_rungs(costs, middle)].sum() <= most:
            high = middle
        else:
            low = middle + 1
    rungs = _best_rungs(costs, low)
    left = most - int(costs.costs[images, rungs].sum())
    if left < 0:
        rungs = np.argmin(costs.costs, axis=1)
        left = most - least_cost(costs)
    for image in images:  # what is left is spent where it first helps
        room = costs.costs[image, rungs[image]] + left
        within = costs.costs[image] <= room
        rungs[image] = np.argmin(np.where(within, costs.errors[image], np.iinfo(np.int64).max))
        left = int(room - costs.costs[image, rungs[image]])
    return rungs, left


def in_parts(
    model: CodecModel, first: Levels, costs: Costs, rungs: Int64[np.ndarray, " image"], left: int
) -> Modes:
    """Return the modes of images on rungs, the first image on two of them if there it spends what is left."""
    modes = whole_modes(rungs)
    room = int(costs.costs[0, rungs[0]]) + left
    finer = model.encoder.finer_latents(first)

    def tried(rung: int, part: int, bin: int) -> tuple[int, int]:
        coded = _coded(model, first, finer, Modes(np.array([rung]), np.array([part]), np.array([bin])))
        return int(coded.costs[0]), squared_errors(coded.levels, first)[0]

    best = int(costs.errors[0, rungs[0]])
    for rung, bin in _ways_up(costs, rungs[0], room):
        low, high = 0, PARTS - 1
        while low < high:
            middle = (low + high + 1) // 2
            if tried(rung, middle, bin)[0] <= room:
                low = middle
            else:
                high = middle - 1
        if low and (error := tried(rung, low, bin)[1]) < best:
            best = error
            modes.rungs[0], modes.parts[0], modes.bins[0] = rung, low, bin
    return modes


def _ways_up(costs: Costs, rung: int, room: int) -> Iterator[tuple[int, int]]:
    """Yield the rungs that the first image may leave in part, and to which of ERRORS from latents alone.

    `rung` is its own, `room` the most that it may cost.
    """
    last = costs.costs.shape[1] - 1
    for below in range(last):
        if below != RUNGS_OF_LATENTS - 1 and costs.costs[0, below] <= room < costs.costs[0, below + 1]:
            yield below, 0
    if rung < RUNGS_OF_LATENTS <= last:
        for bin in range(BINS_TRIED):
            if room < costs.costs[0, RUNGS_OF_LATENTS + bin]:
                yield RUNGS_OF_LATENTS - 1, bin


def _best_rungs(costs: Costs, worth: int) -> Int64[np.ndarray, " image"]:
    octaves, rest = divmod(worth, _WORTHS_AN_OCTAVE)
    of_costs = _WORTHS_AN_OCTAVE + rest << octaves
    return np.argmin((costs.errors * COSTS_A_BIT << _WORTH_BITS) + costs.costs * of_costs, axis=1)


def _worth_at(quality: int) -> int:
    numerator, denominator = _WORTHS_BY_QUALITY
    return _BEST_WORTH + (BEST_QUALITY - quality) * numerator // denominator


def squared_errors(levels: Levels, original: Levels) -> Int64[np.ndarray, " image"]:
    """Return the squared error of each image, summed over its levels."""
    difference = levels.astype(np.int64) - original
    return (difference**2).sum(axis=(1, 2, 3))


def rung_costs(model: CodecModel, levels: Levels, rungs: int = RUNGS) -> Costs:
    """Try each of the first rungs on images."""
    finer = model.encoder.finer_latents(levels)
    errors, costs = (np.empty((len(levels), rungs), np.int64) for _ in range(2))
    features = None
    for rung in range(rungs):
        modes = whole_modes(np.full(len(levels), rung))
        if rung == RUNGS_OF_LATENTS:  # from here on latents are the same, and what is made of them
            features = model.features_of(_narrow(_latents(model, finer, modes).k))
        coded = _coded(model, levels, finer, modes, features)
        errors[:, rung] = squared_errors(coded.levels, levels)
        costs[:, rung] = coded.costs
    return Costs(errors, costs)


def encode_lossy_chunk(model: CodecModel, levels: Levels, modes: Modes) -> tuple[bytes, Levels]:
    """Return the stream of images, and what comes back."""
    coded = _coded(model, levels, model.encoder.finer_latents(levels), modes)
    return rans.encode(coded.starts, coded.frequencies), coded.levels


def decode_lossy_chunk(model: CodecModel, stream: bytes, images: int) -> Levels:
    """Return the images of a stream; raise StreamError for one that no encoder wrote."""
    state, words = rans.opened(stream)
    *heads, k, state, left = decode_heads(
        state, words, len(words), images, model.ladder, model.decoder is not None
    )
    modes = Modes(*heads)
    near, pictured = have_levels(modes), modes.rungs < RUNGS_OF_LATENTS
    levels = np.empty((images, *model.config.shape), np.uint8)
    if pictured.any():
        z = k * np.array(STEPS)[step_numbers(modes, k.shape[1])]
        levels[pictured] = model.pictures.levels(z[pictured].astype(np.int16))
    if near.any():
        features = model.features_of(_narrow(k[near]))
        in_place = np.ascontiguousarray(levels[near].transpose(0, 2, 3, 1))
        errors = pixel_errors(modes.of(near), *levels.shape[2:])
        coding = (True, state, words, left)
        *_, state, left = code_near(*coding, in_place, errors, features, model.best_network, model.tables)
        levels[near] = in_place.transpose(0, 3, 1, 2)
    if state or left:
        raise StreamError("the stream does not end with the last pixel")
    return levels


class _Coded(NamedTuple):
    """The slots of images, and what comes back of them."""

    starts: Int64[np.ndarray, " symbol"]
    frequencies: Int64[np.ndarray, " symbol"]
    costs: Int64[np.ndarray, " image"]
    levels: Levels


class _Latents(NamedTuple):
    """Latents on their rungs."""

    k: FinerLatents
    z: FinerLatents
    starts: Int64[np.ndarray, "image latent"]
    frequencies: Int64[np.ndarray, "image latent"]


def _latents(model: CodecModel, finer: FinerLatents, modes: Modes) -> _Latents:
    numbers = step_numbers(modes, finer.shape[1])
    steps = np.array(STEPS)[numbers]
    k, entries = within_tables(quantised(finer, steps), numbers, model.ladder)
    starts = model.ladder.starts[entries].astype(np.int64)
    frequencies = model.ladder.starts[entries + 1] - starts
    if model.decoder is None:  # a symbol that owns every slot costs nothing
        unused = modes.rungs >= RUNGS_OF_LATENTS
        starts[unused], frequencies[unused] = 0, TOTAL
    return _Latents(k, (k * steps).astype(np.int16), starts, frequencies)


def _coded(
    model: CodecModel, levels: Levels, finer: FinerLatents, modes: Modes, features: Features | None = None
) -> _Coded:
    """Code images; `features` are those of images on rungs of levels, where they are known."""
    near, pictured = have_levels(modes), modes.rungs < RUNGS_OF_LATENTS
    latents = _latents(model, finer, modes)
    heads = (slots_of_rungs(modes), slots_of_parts(modes), slots_of_bins(modes))
    slots = (*heads, (latents.starts, latents.frequencies))
    starts, frequencies = (np.concatenate(parts, axis=1) for parts in zip(*slots, strict=True))
    costs = costs_of(frequencies)
    back = levels.copy()
    if pictured.any():
        back[pictured] = model.pictures.levels(latents.z[pictured])
    parts = [(starts.ravel(), frequencies.ravel())]
    if near.any():
        if features is None:
            features = model.features_of(_narrow(latents.k[near]))
        errors = pixel_errors(modes.of(near), *levels.shape[2:])
        given = np.where((errors == NOT_CODED)[:, None], back[near], levels[near])
        in_place = np.ascontiguousarray(given.transpose(0, 2, 3, 1))
        coding = (False, 0, np.zeros(0, np.uint16), 0)
        first, count, near_costs, _, _ = code_near(
            *coding, in_place, errors, features, model.best_network, model.tables
        )
        parts.append((first, count))
        costs[near] += near_costs
        back[near] = in_place.transpose(0, 3, 1, 2)
    starts, frequencies = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if len(levels) == 1:  # a stream's last symbols cost less than their share; here it is known how much
        costs[0] = len(rans.encode(starts, frequencies)) * 8 * COSTS_A_BIT
    return _Coded(starts, frequencies, costs, back)


def _narrow(k: FinerLatents) -> Latents:
    """Return the latents of images on rungs of levels, whose tables keep them to eight bits."""
    return k.astype(np.int8)
