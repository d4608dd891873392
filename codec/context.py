"""Pixel by pixel: each level's table from the levels before it and the decoder's features, in integers.

    levels above and to the left ─┬─► prediction ───────────────┐
    channels before this one ─────┼─► hidden layers ─► logits, locations, scales ─► slots of the level
    features of the pixel ────────┘

The hidden layers are told of the channels before by how far those were from their own predictions.

Encoding knows every level; decoding finds one after the other. Both run the same arithmetic: sums of 32 bits
of products of 16. LANES images go side by side: at each pixel in raster order, each channel, one image after
the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Int32, Int64
from numba import njit

from codec.integer import LARGEST_ACTIVATION, LEAK_BITS, shifted
from codec.mixture import (
    LOCATION_STEPS,
    Each,
    MixtureTables,
    cumulative,
    find_level,
    levels_near,
    mean_level,
    set_mixtures,
    widened,
    workplace,
)
from codec.networks import CENTRE
from codec.rans import TOTAL, cost, pop

SMALLEST_HIDDEN, LARGEST_HIDDEN = -512, 4095
LARGEST_INPUT = LARGEST_ACTIVATION  # of features, and of levels less CENTRE
LARGEST_RESIDUAL = 4095  # of how far a level is from its prediction, in steps of a location
LARGEST_SHIFT = 28
LANES = 4  # images that share their turns: their sums do not wait for each other
INPUTS = 64  # the network's inputs are padded to a multiple of it: dot products then need no remainder


class ContextNetwork(NamedTuple):
    """Weights (…, outputs, inputs), biases, and shifts to the right.

    The first layer has an output more than there are hidden units: the prediction, in steps of a location.
    """

    offsets: Int64[np.ndarray, "context 2"]  # (dy, dx) of the pixels that are seen, all before the pixel
    # Of levels (channels innermost), features, nothing; the predictions of all channels come last.
    seen_weight: Int16[np.ndarray, "hidden+channel inputs"]
    # Of the pixel's channels before this one: of their residuals; the prediction's of their levels.
    own_weight: Int16[np.ndarray, "channel hidden+1 channel"]
    first_bias: Int32[np.ndarray, "channel hidden+1"]
    first_shift: Int32[np.ndarray, "channel hidden+1"]
    middle_weight: Int16[np.ndarray, "channel layer hidden hidden"]
    middle_bias: Int32[np.ndarray, "channel layer hidden"]
    middle_shift: Int32[np.ndarray, "channel layer hidden"]
    last_weight: Int16[np.ndarray, "channel parameter hidden"]
    last_bias: Int32[np.ndarray, "channel parameter"]
    last_shift: Int32[np.ndarray, "channel parameter"]


def seen_weights(net: ContextNetwork) -> Int16[np.ndarray, "channel hidden+1 inputs"]:
    """Return what each channel's first layer makes of the levels and features that all of them see."""
    hidden = net.own_weight.shape[1] - 1
    return np.stack([np.vstack([net.seen_weight[:hidden], own]) for own in net.seen_weight[hidden:]])


def context_faults(part: str, net: ContextNetwork, reach: int) -> list[str]:
    """Return what might overflow 32 bits, or look at a pixel that is not decoded yet."""
    faults = []
    rows, columns = net.offsets.T
    before = (rows < 0) | ((rows == 0) & (columns < 0))
    near = (net.offsets >= -reach) & (net.offsets <= reach)
    if not before.all() or not near.all():
        faults.append(f"{part}.offsets: one is not before the pixel, {reach} away or less")
    of_own = np.full(net.own_weight.shape[1], LARGEST_RESIDUAL)
    of_own[-1] = LARGEST_INPUT
    products = {
        "first": _absolute_sums(seen_weights(net)) * LARGEST_INPUT + _absolute_sums(net.own_weight) * of_own,
        "middle": _absolute_sums(net.middle_weight) * LARGEST_HIDDEN,
        "last": _absolute_sums(net.last_weight) * LARGEST_HIDDEN,
    }
    reached = {}
    for layer, largest in products.items():
        bias, shift = getattr(net, f"{layer}_bias"), getattr(net, f"{layer}_shift")
        if not ((shift >= 0) & (shift <= LARGEST_SHIFT)).all():
            faults.append(f"{part}.{layer}_shift: one is outside 0 … {LARGEST_SHIFT}")
        sums = largest + np.abs(bias.astype(np.int64))
        reached[layer] = int(sums.max(initial=0)) + (1 << LARGEST_SHIFT)
        if reached[layer] >= 2**31:
            faults.append(f"{part}.{layer}_weight: a sum may reach {reached[layer]}, above 2^31")
    moved = reached["first"] + reached["last"]  # a location by its prediction
    if not faults and moved >= 2**31:
        faults.append(f"{part}: a location may reach {moved}, above 2^31")
    return faults


def _absolute_sums(weight: Int16[np.ndarray, "*output input"]) -> Int64[np.ndarray, "*output"]:
    """Return what an output's sum may reach for inputs of ±1."""
    return np.abs(weight.astype(np.int64)).sum(axis=-1)


@njit(cache=True, nogil=True)
def _see(
    flat: np.ndarray, place: int, offsets: np.ndarray, features: np.ndarray, lane: int, inputs: np.ndarray
) -> None:
    """Fill a lane's inputs with the centred levels at offsets from a place, and the features of the place."""
    seen = len(offsets)
    for i in range(seen):
        inputs[lane, i] = flat[place + offsets[i]]
    for f in range(len(features)):
        inputs[lane, seen + f] = features[f]


@njit(cache=True, nogil=True)
def _set_seen(lanes: int, inputs: np.ndarray, net: ContextNetwork, seen: np.ndarray) -> None:
    for o in range(seen.shape[1]):
        for n in range(lanes):
            total = np.int32(0)
            for i in range(inputs.shape[1]):
                total += np.int32(net.seen_weight[o, i]) * np.int32(inputs[n, i])
            seen[n, o] = total


@njit(cache=True, nogil=True)
def _hidden_unit(total: int, shift: int) -> int:
    value = shifted(total, shift + LEAK_BITS if total < 0 else shift)
    return min(max(value, SMALLEST_HIDDEN), LARGEST_HIDDEN)


class Workplace(NamedTuple):
    """Room for what `_set_outputs` computes on its way."""

    totals: Int32[np.ndarray, "lane hidden"]
    hidden: Int16[np.ndarray, "lane hidden"]
    predictions: Int32[np.ndarray, "lane channel"]
    residuals: Int32[np.ndarray, "lane channel"]


@njit(cache=True, nogil=True)
def _network_workplace(lanes: int, hidden: int, channels: int) -> Workplace:
    return Workplace(
        np.empty((lanes, hidden), np.int32),
        np.empty((lanes, hidden), np.int16),
        np.empty((lanes, channels), np.int32),
        np.empty((lanes, channels), np.int32),
    )


@njit(cache=True, nogil=True)
def residual_of(level: int, prediction: int) -> int:
    """Return how far a level is from its prediction, both less CENTRE, in steps of a location."""
    return min(max((level - CENTRE) * LOCATION_STEPS - prediction, -LARGEST_RESIDUAL), LARGEST_RESIDUAL)


@njit(cache=True, nogil=True)
def _set_predictions(
    lanes: int,
    channel: int,
    levels: np.ndarray,
    seen: np.ndarray,
    net: ContextNetwork,
    predictions: np.ndarray,
    residuals: np.ndarray,
) -> None:
    """Fill the predictions (lane, C) of a channel, and the residuals of the one before it."""
    width = seen.shape[1] - len(net.own_weight)
    for n in range(lanes):
        total = seen[n, width + channel] + net.first_bias[channel, width]
        for c in range(channel):
            total += net.own_weight[channel, width, c] * (np.int32(levels[n, c]) - CENTRE)
        predictions[n, channel] = shifted(total, net.first_shift[channel, width])
        if channel:
            residuals[n, channel - 1] = residual_of(levels[n, channel - 1], predictions[n, channel - 1])


@njit(cache=True, nogil=True)
def _set_outputs(
    lanes: int,
    channel: int,
    levels: np.ndarray,
    seen: np.ndarray,
    net: ContextNetwork,
    work: Workplace,
    outputs: np.ndarray,
) -> None:
    """Fill outputs (logits, locations, scales; lane) for a channel's level, the channels in their order.

    `levels` (lanes, C) are read before the channel only; `seen` are the sums of what the lanes see.
    """
    totals, hidden, predictions, residuals = work
    width, components = hidden.shape[1], len(outputs) // 3
    _set_predictions(lanes, channel, levels, seen, net, predictions, residuals)
    for n in range(lanes):
        for o in range(width):
            total = seen[n, o] + net.first_bias[channel, o]
            for c in range(channel):
                total += net.own_weight[channel, o, c] * residuals[n, c]
            hidden[n, o] = _hidden_unit(total, net.first_shift[channel, o])
    for layer in range(net.middle_weight.shape[1]):
        for o in range(width):
            for n in range(lanes):
                total = np.int32(0)
                for i in range(width):
                    total += np.int32(net.middle_weight[channel, layer, o, i]) * np.int32(hidden[n, i])
                totals[n, o] = total
        for n in range(lanes):
            for o in range(width):
                total = totals[n, o] + net.middle_bias[channel, layer, o]
                hidden[n, o] = _hidden_unit(total, net.middle_shift[channel, layer, o])
    for o in range(len(outputs)):
        for n in range(lanes):
            total = np.int32(0)
            for i in range(width):
                total += np.int32(net.last_weight[channel, o, i]) * np.int32(hidden[n, i])
            outputs[o, n] = shifted(total + net.last_bias[channel, o], net.last_shift[channel, o])
    for n in range(lanes):
        for k in range(components):
            outputs[components + k, n] += predictions[n, channel]


@njit(cache=True, nogil=True)
def margin_of(offsets: np.ndarray) -> int:
    """Return how far from a pixel the ones that it sees are."""
    return np.abs(offsets).max()


@njit(cache=True, nogil=True)
def flat_offsets(offsets: np.ndarray, row: int, channels: int) -> np.ndarray:
    """Return where the levels that a pixel sees are from it, in flat images of `row` levels a row."""
    flat = np.empty(len(offsets) * channels, np.int64)
    for i in range(len(offsets)):
        for c in range(channels):
            flat[i * channels + c] = offsets[i, 0] * row + offsets[i, 1] * channels + c
    return flat


@njit(cache=True, nogil=True)
def slots_of_levels(
    levels: np.ndarray,
    max_error: int,
    features: np.ndarray,
    net: ContextNetwork,
    tables: MixtureTables,
    each: Each,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first slot and the number of slots of every level (N,H,W,C), in the order of coding.

    With a `max_error` above 0 they are the slots of all levels that are coded as the same one.
    """
    images, height, width, channels = levels.shape
    margin = margin_of(net.offsets)
    row = (width + 2 * margin) * channels
    offsets = flat_offsets(net.offsets, row, channels)
    inputs = np.zeros((width, net.seen_weight.shape[1]), np.int16)
    size, parameters = net.last_weight.shape[2], net.last_weight.shape[1]
    seen, outputs = np.empty((width, size + channels), np.int32), np.empty((parameters, width), np.int32)
    work = _network_workplace(width, size, channels)
    weights, locations, steepnesses = workplace(width, each)
    logistic = tables.logistic
    starts, frequencies = np.empty(levels.size, np.int64), np.empty(levels.size, np.int64)
    padded = np.zeros((height + margin, width + 2 * margin, channels), np.int16)
    flat = padded.ravel()
    for n in range(images):
        first = n - n % LANES
        lanes = min(LANES, images - first)
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    padded[margin + y, margin + x, c] = np.int16(levels[n, y, x, c]) - CENTRE
        for y in range(height):
            for x in range(width):
                place = (y + margin) * row + (x + margin) * channels
                _see(flat, place, offsets, features[n, y, x], x, inputs)
            _set_seen(width, inputs, net, seen)
            for c in range(channels):
                _set_outputs(width, c, levels[n, y], seen, net, work, outputs)
                set_mixtures(outputs, width, tables, each, weights, locations, steepnesses)
                for x in range(width):
                    pixel = first * height * width + (y * width + x) * lanes
                    place = pixel * channels + c * lanes + n - first
                    low, high = levels_near(levels[n, y, x, c], max_error)
                    start = cumulative(low, x, weights, locations, steepnesses, each, logistic)
                    starts[place] = start
                    end = cumulative(high, x, weights, locations, steepnesses, each, logistic)
                    frequencies[place] = end - start
    return starts, frequencies


@njit(cache=True, nogil=True)
def decode_levels(
    state: int,
    words: np.ndarray,
    count: int,
    features: np.ndarray,
    channels: int,
    max_error: int,
    net: ContextNetwork,
    tables: MixtureTables,
    each: Each,
) -> tuple[np.ndarray, int, int]:
    """Return the levels (N,H,W,C) that a stream goes on with, and the state and words after them."""
    images, height, width, _ = features.shape
    margin = margin_of(net.offsets)
    row = (width + 2 * margin) * channels
    offsets = flat_offsets(net.offsets, row, channels)
    inputs = np.zeros((LANES, net.seen_weight.shape[1]), np.int16)
    size, parameters = net.last_weight.shape[2], net.last_weight.shape[1]
    seen, outputs = np.empty((LANES, size + channels), np.int32), np.empty((parameters, LANES), np.int32)
    work = _network_workplace(LANES, size, channels)
    weights, locations, steepnesses = workplace(LANES, each)
    logistic = tables.logistic
    pixels = np.zeros((LANES, channels), np.uint8)
    levels = np.empty((images, height, width, channels), np.uint8)
    for first in range(0, images, LANES):
        lanes = min(LANES, images - first)
        flat = np.zeros(lanes * (height + margin) * row, np.int16)
        for y in range(height):
            for x in range(width):
                place = (y + margin) * row + (x + margin) * channels
                for n in range(lanes):
                    base = place + n * (height + margin) * row
                    _see(flat, base, offsets, features[first + n, y, x], n, inputs)
                _set_seen(lanes, inputs, net, seen)
                for c in range(channels):
                    _set_outputs(lanes, c, pixels, seen, net, work, outputs)
                    set_mixtures(outputs, lanes, tables, each, weights, locations, steepnesses)
                    for n in range(lanes):
                        slot = state & (TOTAL - 1)
                        level, start, end = find_level(
                            slot, n, weights, locations, steepnesses, each, logistic
                        )
                        if max_error:
                            level, start, end = widened(
                                level, max_error, n, weights, locations, steepnesses, each, logistic
                            )
                        state, count = pop(state, start, end - start, words, count)
                        pixels[n, c] = level
                        levels[first + n, y, x, c] = level
                        flat[place + n * (height + margin) * row + c] = level - CENTRE
    return levels, state, count


@njit(cache=True, nogil=True)
def code_near(
    decoding: bool,
    state: int,
    words: np.ndarray,
    count: int,
    levels: np.ndarray,
    errors: np.ndarray,
    features: np.ndarray,
    net: ContextNetwork,
    tables: MixtureTables,
    each: Each,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Code images (N,H,W,C) whose rows have an error each (N,H); `levels` become what comes back.

    Levels that an error makes one come back as their mean, here and in the contexts of those that follow.
    Returns every level's first slot and number of slots, and what each image costs; decoding, nothing of
    these, but the state and the words after the images.
    """
    images, height, width, channels = levels.shape
    margin = margin_of(net.offsets)
    row = (width + 2 * margin) * channels
    offsets = flat_offsets(net.offsets, row, channels)
    inputs = np.zeros((LANES, net.seen_weight.shape[1]), np.int16)
    size, parameters = net.last_weight.shape[2], net.last_weight.shape[1]
    seen, outputs = np.empty((LANES, size + channels), np.int32), np.empty((parameters, LANES), np.int32)
    work = _network_workplace(LANES, size, channels)
    weights, locations, steepnesses = workplace(LANES, each)
    logistic = tables.logistic
    pixels = np.zeros((LANES, channels), np.uint8)
    symbols = 0 if decoding else levels.size
    starts, frequencies = np.empty(symbols, np.int64), np.empty(symbols, np.int64)
    costs = np.zeros(images, np.int64)
    symbol = 0
    for first in range(0, images, LANES):
        lanes = min(LANES, images - first)
        flat = np.zeros(lanes * (height + margin) * row, np.int16)
        for y in range(height):
            for x in range(width):
                place = (y + margin) * row + (x + margin) * channels
                for n in range(lanes):
                    base = place + n * (height + margin) * row
                    _see(flat, base, offsets, features[first + n, y, x], n, inputs)
                _set_seen(lanes, inputs, net, seen)
                for c in range(channels):
                    _set_outputs(lanes, c, pixels, seen, net, work, outputs)
                    set_mixtures(outputs, lanes, tables, each, weights, locations, steepnesses)
                    for n in range(lanes):
                        level = int(levels[first + n, y, x, c])
                        if decoding:
                            slot = state & (TOTAL - 1)
                            level, start, end = find_level(
                                slot, n, weights, locations, steepnesses, each, logistic
                            )
                        low, high = levels_near(level, int(errors[first + n, y]))
                        start = cumulative(low, n, weights, locations, steepnesses, each, logistic)
                        end = cumulative(high, n, weights, locations, steepnesses, each, logistic)
                        level = mean_level(
                            low, high, start, end, n, weights, locations, steepnesses, each, logistic
                        )
                        if decoding:
                            state, count = pop(state, start, end - start, words, count)
                        else:
                            starts[symbol], frequencies[symbol] = start, end - start
                            symbol += 1
                            costs[first + n] += cost(end - start)
                        pixels[n, c] = level
                        levels[first + n, y, x, c] = level
                        flat[place + n * (height + margin) * row + c] = level - CENTRE
    return starts, frequencies, costs, state, count
