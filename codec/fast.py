"""Fast coding: each level's table from a small context network alone, without latents or features.

    levels above and to the left ─► two hidden layers, a prediction ─► a mixture for the level

It is the network of `context`, smaller. FAST_LANES images go side by side, so that one instruction computes
the same unit for many; the numbers of inputs and units are in the types, as lengths of tuples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64
from numba import njit

from codec.context import (
    LARGEST_HIDDEN,
    SMALLEST_HIDDEN,
    ContextNetwork,
    flat_offsets,
    margin_of,
    residual_of,
    seen_weights,
)
from codec.integer import LEAK_BITS
from codec.mixture import (
    Each,
    MixtureTables,
    cumulative,
    find_level,
    levels_near,
    likely_level,
    set_mixtures,
    widened,
    workplace,
)
from codec.networks import CENTRE
from codec.rans import TOTAL, pop

HIDDEN_LAYERS = 2
FAST_LANES = 16


class FastNetwork(NamedTuple):
    """A context network without features, of two hidden layers; the last two fields count by their length.

    Inputs are the levels that a pixel sees and, where it has several channels, its own levels, which are the
    prediction's alone, and its own residuals, which are the hidden layer's alone.
    """

    offsets: Int64[np.ndarray, "context 2"]
    prediction_weight: Int32[np.ndarray, "channel 1 input"]
    prediction_bias: Int32[np.ndarray, "channel 1"]
    prediction_shift: Int32[np.ndarray, "channel 1"]
    first_weight: Int32[np.ndarray, "channel hidden input"]
    first_bias: Int32[np.ndarray, "channel hidden"]
    first_shift: Int32[np.ndarray, "channel hidden"]
    middle_weight: Int32[np.ndarray, "channel hidden hidden"]
    middle_bias: Int32[np.ndarray, "channel hidden"]
    middle_shift: Int32[np.ndarray, "channel hidden"]
    last_weight: Int32[np.ndarray, "channel output hidden"]
    last_bias: Int32[np.ndarray, "channel output"]
    last_shift: Int32[np.ndarray, "channel output"]
    inputs: Each
    units: Each


def fast_network(net: ContextNetwork) -> FastNetwork:
    """Lay a context network without features out for speed."""
    channels, hidden = net.middle_bias.shape[0], net.middle_bias.shape[2]
    first = seen_weights(net)[:, :, : len(net.offsets) * channels]
    if channels > 1:  # the pixel's own levels and residuals, of which later channels' count nothing
        own = net.own_weight * np.tri(channels, k=-1, dtype=np.int16)[:, None]
        of_levels, of_residuals = own.copy(), own
        of_levels[:, :hidden], of_residuals[:, hidden:] = 0, 0
        first = np.concatenate([first, of_levels, of_residuals], axis=2)
    return FastNetwork(
        net.offsets,
        np.ascontiguousarray(first[:, hidden:], np.int32),
        np.ascontiguousarray(net.first_bias[:, hidden:]),
        np.ascontiguousarray(net.first_shift[:, hidden:]),
        np.ascontiguousarray(first[:, :hidden], np.int32),
        np.ascontiguousarray(net.first_bias[:, :hidden]),
        np.ascontiguousarray(net.first_shift[:, :hidden]),
        np.ascontiguousarray(net.middle_weight[:, 0], np.int32),
        np.ascontiguousarray(net.middle_bias[:, 0]),
        np.ascontiguousarray(net.middle_shift[:, 0]),
        net.last_weight.astype(np.int32),
        net.last_bias,
        net.last_shift,
        (0,) * first.shape[2],
        (0,) * hidden,
    )


@njit(cache=True, nogil=True)
def _set_hidden(
    inputs: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    shift: np.ndarray,
    c: np.uint64,
    each: Each,
    hidden: np.ndarray,
) -> None:
    for o in range(weight.shape[1]):
        b, s = bias[c, o], shift[c, o]
        r, leaking = np.int32((1 << s) >> 1), np.int32((1 << (s + LEAK_BITS)) >> 1)
        for n in range(FAST_LANES):
            total = b
            for i in range(len(each)):
                total = np.int32(total + np.int32(weight[c, o, i] * inputs[i, n]))
            if total < 0:
                value = np.int32(np.int32(total + leaking) >> (s + LEAK_BITS & 31))
            else:
                value = np.int32(np.int32(total + r) >> (s & 31))
            hidden[o, n] = min(max(value, np.int32(SMALLEST_HIDDEN)), np.int32(LARGEST_HIDDEN))


@njit(cache=True, nogil=True)
def _set_outputs(
    hidden: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    shift: np.ndarray,
    c: np.uint64,
    each: Each,
    outputs: np.ndarray,
) -> None:
    for o in range(weight.shape[1]):
        b, s = bias[c, o], shift[c, o]
        r = np.int32((1 << s) >> 1)
        for n in range(FAST_LANES):
            total = b
            for i in range(len(each)):
                total = np.int32(total + np.int32(weight[c, o, i] * hidden[i, n]))
            outputs[o, n] = np.int32(np.int32(total + r) >> (s & 31))


@njit(cache=True, nogil=True)
def _add_prediction(prediction: np.ndarray, outputs: np.ndarray) -> None:
    components = len(outputs) // 3
    for k in range(components):
        for n in range(FAST_LANES):
            outputs[components + k, n] += prediction[0, n]


@njit(cache=True, nogil=True)
def _see(plane: np.ndarray, place: int, offsets: np.ndarray, inputs: np.ndarray) -> None:
    """Fill inputs (…, lane) with the centred levels at offsets from a place."""
    for i in range(len(offsets)):
        for n in range(FAST_LANES):
            inputs[i, n] = plane[place + offsets[i], n]


@njit(cache=True, nogil=True)
def _note_residuals(
    plane: np.ndarray, place: int, channel: int, channels: int, prediction: np.ndarray, inputs: np.ndarray
) -> None:
    """Fill inputs with how far a channel's levels are from their predictions, for the channels after it."""
    if channel + 1 < channels:
        row = len(inputs) - channels + channel
        for n in range(FAST_LANES):
            inputs[row, n] = residual_of(plane[place + channel, n] + CENTRE, prediction[0, n])


@njit(cache=True, nogil=True)
def _offsets_in(offsets: np.ndarray, row: int, channels: int) -> np.ndarray:
    """Return where a pixel's inputs are from it: what it sees, and its own levels if it has several."""
    seen = flat_offsets(offsets, row, channels)
    return seen if channels == 1 else np.concatenate((seen, np.arange(channels)))


@njit(cache=True, nogil=True)
def fast_slots_of_levels(
    levels: np.ndarray, max_error: int, net: FastNetwork, tables: MixtureTables, each: Each
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first slot and the number of slots of every level (N,H,W,C), in the order of coding.

    With a `max_error` above 0 they are the slots of all levels that are coded as the same one.
    """
    images, height, width, channels = levels.shape
    margin = margin_of(net.offsets)
    row = (width + 2 * margin) * channels
    offsets = _offsets_in(net.offsets, row, channels)
    # Taken out of their tuples, whose every passing on costs more than a layer.
    linear_weight, linear_bias, linear_shift = (
        net.prediction_weight,
        net.prediction_bias,
        net.prediction_shift,
    )
    first_weight, first_bias, first_shift = net.first_weight, net.first_bias, net.first_shift
    middle_weight, middle_bias, middle_shift = net.middle_weight, net.middle_bias, net.middle_shift
    last_weight, last_bias, last_shift = net.last_weight, net.last_bias, net.last_shift
    each_input, each_unit = net.inputs, net.units
    logistic = tables.logistic
    inputs = np.zeros((len(each_input), FAST_LANES), np.int32)
    one = np.zeros((len(each_unit), FAST_LANES), np.int32)
    two = np.zeros((len(each_unit), FAST_LANES), np.int32)
    outputs = np.zeros((3 * len(each), FAST_LANES), np.int32)
    prediction = np.zeros((1, FAST_LANES), np.int32)
    weights, locations, steepnesses = workplace(FAST_LANES, each)
    starts, frequencies = np.empty(levels.size, np.int64), np.empty(levels.size, np.int64)
    plane = np.zeros(((height + margin) * row, FAST_LANES), np.int32)
    symbol = 0
    for first in range(0, images, FAST_LANES):
        lanes = min(FAST_LANES, images - first)
        for n in range(lanes):
            for y in range(height):
                for x in range(width):
                    place = (y + margin) * row + (x + margin) * channels
                    for c in range(channels):
                        plane[place + c, n] = np.int32(levels[first + n, y, x, c]) - CENTRE
        for y in range(height):
            for x in range(width):
                place = (y + margin) * row + (x + margin) * channels
                _see(plane, place, offsets, inputs)
                for c in range(channels):
                    u = np.uint64(c)  # an index without a sign needs no check for a negative one
                    _set_hidden(inputs, first_weight, first_bias, first_shift, u, each_input, one)
                    _set_hidden(one, middle_weight, middle_bias, middle_shift, u, each_unit, two)
                    _set_outputs(two, last_weight, last_bias, last_shift, u, each_unit, outputs)
                    _set_outputs(inputs, linear_weight, linear_bias, linear_shift, u, each_input, prediction)
                    _add_prediction(prediction, outputs)
                    set_mixtures(outputs, FAST_LANES, tables, each, weights, locations, steepnesses)
                    for n in range(lanes):
                        low, high = levels_near(levels[first + n, y, x, c], max_error)
                        start = cumulative(low, n, weights, locations, steepnesses, each, logistic)
                        end = cumulative(high, n, weights, locations, steepnesses, each, logistic)
                        starts[symbol], frequencies[symbol] = start, end - start
                        symbol += 1
                    _note_residuals(plane, place, c, channels, prediction, inputs)
    return starts, frequencies


@njit(cache=True, nogil=True)
def fast_decode_levels(
    state: int,
    words: np.ndarray,
    count: int,
    shape: tuple[int, int, int, int],
    max_error: int,
    net: FastNetwork,
    tables: MixtureTables,
    each: Each,
) -> tuple[np.ndarray, int, int]:
    """Return the levels of a shape (N,H,W,C) that a stream has, and the state and words left after them."""
    images, height, width, channels = shape
    margin = margin_of(net.offsets)
    row = (width + 2 * margin) * channels
    offsets = _offsets_in(net.offsets, row, channels)
    linear_weight, linear_bias, linear_shift = (
        net.prediction_weight,
        net.prediction_bias,
        net.prediction_shift,
    )
    first_weight, first_bias, first_shift = net.first_weight, net.first_bias, net.first_shift
    middle_weight, middle_bias, middle_shift = net.middle_weight, net.middle_bias, net.middle_shift
    last_weight, last_bias, last_shift = net.last_weight, net.last_bias, net.last_shift
    each_input, each_unit = net.inputs, net.units
    logistic = tables.logistic
    inputs = np.zeros((len(each_input), FAST_LANES), np.int32)
    one = np.zeros((len(each_unit), FAST_LANES), np.int32)
    two = np.zeros((len(each_unit), FAST_LANES), np.int32)
    outputs = np.zeros((3 * len(each), FAST_LANES), np.int32)
    prediction = np.zeros((1, FAST_LANES), np.int32)
    weights, locations, steepnesses = workplace(FAST_LANES, each)
    likely = np.empty((FAST_LANES, 3), np.int64)  # a level, its first slot, the next level's
    levels = np.empty(shape, np.uint8)
    plane = np.zeros(((height + margin) * row, FAST_LANES), np.int32)
    for first in range(0, images, FAST_LANES):
        lanes = min(FAST_LANES, images - first)
        plane[:] = 0
        for y in range(height):
            for x in range(width):
                place = (y + margin) * row + (x + margin) * channels
                for c in range(channels):
                    u = np.uint64(c)
                    _see(plane, place, offsets, inputs)
                    _set_hidden(inputs, first_weight, first_bias, first_shift, u, each_input, one)
                    _set_hidden(one, middle_weight, middle_bias, middle_shift, u, each_unit, two)
                    _set_outputs(two, last_weight, last_bias, last_shift, u, each_unit, outputs)
                    _set_outputs(inputs, linear_weight, linear_bias, linear_shift, u, each_input, prediction)
                    _add_prediction(prediction, outputs)
                    set_mixtures(outputs, FAST_LANES, tables, each, weights, locations, steepnesses)
                    # The states wait for each other, so what most will find is looked up before.
                    for n in range(lanes):
                        level = likely_level(n, weights, locations, each)
                        likely[n, 0] = level
                        likely[n, 1] = cumulative(level, n, weights, locations, steepnesses, each, logistic)
                        likely[n, 2] = cumulative(
                            level + 1, n, weights, locations, steepnesses, each, logistic
                        )
                    for n in range(lanes):
                        slot = state & (TOTAL - 1)
                        level, start, end = likely[n]
                        if not start <= slot < end:
                            level, start, end = find_level(
                                slot, n, weights, locations, steepnesses, each, logistic
                            )
                        if max_error:
                            level, start, end = widened(
                                level, max_error, n, weights, locations, steepnesses, each, logistic
                            )
                        state, count = pop(state, start, end - start, words, count)
                        levels[first + n, y, x, c] = level
                        plane[place + c, n] = level - CENTRE
                    _note_residuals(plane, place, c, channels, prediction, inputs)
    return levels, state, count
