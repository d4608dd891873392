"""Pixel by pixel: each level's table from the levels before it and the decoder's features, in integers.

    levels above and to the left ─┬─► prediction ───────────────┐
    channels before this one ─────┼─► hidden layers ─► logits, locations, scales ─► slots of the level
    features of the pixel ────────┘

The hidden layers are told of the channels before by how far those were from their own predictions.

Encoding knows every level; decoding finds one after the other. Both run the same arithmetic: sums of 32 bits
of products of 16. Some images go side by side, each in a lane of its own: at each pixel in raster order, each
channel, one image after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Int32, Int64

from codec.compiled import compiled, inlined
from codec.integer import LARGEST_ACTIVATION, shifted
from codec.ladder import NOT_CODED
from codec.layers import (
    LARGEST_UNIT,
    PackedLayer,
    packed,
    padded_inputs,
    padded_outputs,
    set_first_units,
    set_outputs,
    set_units,
)
from codec.mixture import (
    LOCATION_STEPS,
    Each,
    MixtureTables,
    cumulative,
    find_level,
    levels_near,
    likely_level,
    mean_level,
    set_mixtures,
    widened,
    workplace,
)
from codec.networks import CENTRE
from codec.rans import TOTAL, cost, pop

LARGEST_INPUT = LARGEST_ACTIVATION  # of features, and of levels less CENTRE
LARGEST_RESIDUAL = 4095  # of how far a level is from its prediction, in steps of a location
LARGEST_SHIFT = 28
LANES, FAST_LANES = 4, 16  # images side by side: best, fast
FAST_LAYERS = 2  # hidden ones
INPUTS = 64  # the file has room for a multiple of so many


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


class Network(NamedTuple):
    """A context network as it is run, on so many images side by side."""

    offsets: Int64[np.ndarray, "context 2"]
    seen: PackedLayer  # of what all channels see: sums of the hidden units, then of the predictions
    own_levels: Int32[np.ndarray, "channel channel"]  # of the prediction, like the next two
    own_bias: Int32[np.ndarray, " channel"]
    own_shift: Int32[np.ndarray, " channel"]
    own_residuals: PackedLayer
    middle: PackedLayer  # of each channel's layers
    last: PackedLayer
    inputs: int
    hidden: int
    lanes: int
    each: Each  # of a mixture's components


def packed_network(net: ContextNetwork, features: int, lanes: int) -> Network:
    """Return a network in the order in which it is read."""
    channels, _, hidden = net.middle_bias.shape
    inputs = len(net.offsets) * channels + features
    seen = net.seen_weight[None, :, :inputs]
    nothing = np.zeros(seen.shape[:2], np.int32)
    own = net.own_weight * np.tri(channels, k=-1, dtype=np.int16)[:, None]  # later channels count nothing
    return Network(
        net.offsets,
        packed(seen, nothing, nothing),
        np.ascontiguousarray(own[:, hidden], np.int32),
        np.ascontiguousarray(net.first_bias[:, hidden]),
        np.ascontiguousarray(net.first_shift[:, hidden]),
        packed(own[:, :hidden], net.first_bias[:, :hidden], net.first_shift[:, :hidden]),
        packed(
            net.middle_weight.reshape(-1, hidden, hidden),
            net.middle_bias.reshape(-1, hidden),
            net.middle_shift.reshape(-1, hidden),
        ),
        packed(net.last_weight, net.last_bias, net.last_shift),
        inputs,
        hidden,
        lanes,
        (0,) * (net.last_bias.shape[1] // 3),
    )


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
        "first": _absolute_sums(_seen_weights(net)) * LARGEST_INPUT + _absolute_sums(net.own_weight) * of_own,
        "middle": _absolute_sums(net.middle_weight) * LARGEST_UNIT,
        "last": _absolute_sums(net.last_weight) * LARGEST_UNIT,
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


def _seen_weights(net: ContextNetwork) -> Int16[np.ndarray, "channel hidden+1 inputs"]:
    """Return what each channel's first layer makes of the levels and features that all of them see."""
    hidden = net.own_weight.shape[1] - 1
    return np.stack([np.vstack([net.seen_weight[:hidden], own]) for own in net.seen_weight[hidden:]])


def _absolute_sums(weight: Int16[np.ndarray, "*output input"]) -> Int64[np.ndarray, "*output"]:
    """Return what an output's sum may reach for inputs of ±1."""
    return np.abs(weight.astype(np.int64)).sum(axis=-1)


class Workplace(NamedTuple):
    """Room for what the lanes see, and for what a network computes of it on its way."""

    inputs: Int16[np.ndarray, "lane input"]
    seen: Int32[np.ndarray, "lane hidden+channel"]
    predictions: Int32[np.ndarray, "lane channel"]
    residuals: Int16[np.ndarray, "lane channel"]
    one: Int16[np.ndarray, "lane hidden"]
    two: Int16[np.ndarray, "lane hidden"]
    outputs: Int32[np.ndarray, "lane parameter"]


_padded_inputs, _padded_outputs = inlined(padded_inputs), inlined(padded_outputs)


@compiled
def _network_workplace(lanes: int, net: Network) -> Workplace:
    channels, hidden = len(net.own_bias), _padded_outputs(net.hidden)
    return Workplace(
        np.zeros((lanes, _padded_inputs(net.inputs)), np.int16),
        np.empty((lanes, _padded_outputs(net.hidden + channels)), np.int32),
        np.empty((lanes, channels), np.int32),
        np.zeros((lanes, _padded_inputs(channels)), np.int16),
        np.empty((lanes, hidden), np.int16),
        np.empty((lanes, hidden), np.int16),
        np.empty((lanes, _padded_outputs(3 * len(net.each))), np.int32),
    )


@inlined
def _see(
    flat: np.ndarray, place: int, offsets: np.ndarray, features: np.ndarray, lane: int, inputs: np.ndarray
) -> None:
    """Fill a lane's inputs with the centred levels at offsets from a place, and the features of the place."""
    seen = len(offsets)
    for i in range(seen):
        inputs[lane, i] = flat[place + offsets[i]]
    for f in range(len(features)):
        inputs[lane, seen + f] = features[f]


@inlined
def _set_seen(lanes: int, net: Network, work: Workplace) -> None:
    """Sum up what the lanes see, for all channels of their pixels."""
    set_outputs(lanes, 0, work.inputs, net.seen, work.seen)


@inlined
def residual_of(level: int, prediction: int) -> int:
    """Return how far a level is from its prediction, both less CENTRE, in steps of a location."""
    return min(max((level - CENTRE) * LOCATION_STEPS - prediction, -LARGEST_RESIDUAL), LARGEST_RESIDUAL)


@inlined
def _set_predictions(lanes: int, channel: int, levels: np.ndarray, net: Network, work: Workplace) -> None:
    """Fill the predictions of a channel, and the residuals of the one before it."""
    for n in range(lanes):
        total = work.seen[n, net.hidden + channel] + net.own_bias[channel]
        for c in range(channel):
            total += net.own_levels[channel, c] * (np.int32(levels[n, c]) - CENTRE)
        work.predictions[n, channel] = shifted(total, net.own_shift[channel])
        if channel:
            before = work.predictions[n, channel - 1]
            work.residuals[n, channel - 1] = residual_of(levels[n, channel - 1], before)


@inlined
def _set_parameters(lanes: int, channel: int, levels: np.ndarray, net: Network, work: Workplace) -> None:
    """Fill the outputs (logits, locations, scales) for a channel's level, the channels in their order.

    `levels` (lanes, C) are read before the channel only, after `_set_seen`.
    """
    _set_predictions(lanes, channel, levels, net, work)
    one, two = work.one, work.two
    set_first_units(lanes, channel, work.residuals, net.own_residuals, one, work.seen)
    layers = len(net.middle.bias) // len(net.own_bias)
    for layer in range(channel * layers, (channel + 1) * layers):
        set_units(lanes, layer, one, net.middle, two)
        one, two = two, one
    set_outputs(lanes, channel, one, net.last, work.outputs)
    components = len(net.each)
    for n in range(lanes):
        for k in range(components, 2 * components):
            work.outputs[n, k] += work.predictions[n, channel]


@compiled
def _margin_of(offsets: np.ndarray) -> int:
    """Return how far from a pixel the ones that it sees are."""
    return np.abs(offsets).max()


@compiled
def _flat_offsets(offsets: np.ndarray, row: int, channels: int) -> np.ndarray:
    """Return where the levels that a pixel sees are from it, in flat images of `row` levels a row."""
    flat = np.empty(len(offsets) * channels, np.int64)
    for i in range(len(offsets)):
        for c in range(channels):
            flat[i * channels + c] = offsets[i, 0] * row + offsets[i, 1] * channels + c
    return flat


@compiled
def slots_of_levels(
    levels: np.ndarray, max_error: int, features: np.ndarray, net: Network, tables: MixtureTables
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first slot and the number of slots of every level (N,H,W,C), in the order of coding.

    With a `max_error` above 0 they are the slots of all levels that are coded as the same one.
    """
    images, height, width, channels = levels.shape
    margin = _margin_of(net.offsets)
    row = (width + 2 * margin) * channels
    offsets, each = _flat_offsets(net.offsets, row, channels), net.each
    work = _network_workplace(width, net)
    weights, locations, steepnesses = workplace(width, each)
    logistic = tables.logistic
    starts, frequencies = np.empty(levels.size, np.int64), np.empty(levels.size, np.int64)
    padded = np.zeros((height + margin, width + 2 * margin, channels), np.int16)
    flat = padded.ravel()
    for n in range(images):
        first = n - n % net.lanes
        lanes = min(net.lanes, images - first)
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    padded[margin + y, margin + x, c] = np.int16(levels[n, y, x, c]) - CENTRE
        for y in range(height):
            for x in range(width):
                place = (y + margin) * row + (x + margin) * channels
                _see(flat, place, offsets, features[n, y, x], x, work.inputs)
            _set_seen(width, net, work)
            for c in range(channels):
                _set_parameters(width, c, levels[n, y], net, work)
                set_mixtures(work.outputs, width, tables, each, weights, locations, steepnesses)
                for x in range(width):
                    pixel = first * height * width + (y * width + x) * lanes
                    place = pixel * channels + c * lanes + n - first
                    low, high = levels_near(levels[n, y, x, c], max_error)
                    start = cumulative(low, x, weights, locations, steepnesses, each, logistic)
                    starts[place] = start
                    end = cumulative(high, x, weights, locations, steepnesses, each, logistic)
                    frequencies[place] = end - start
    return starts, frequencies


@compiled
def decode_levels(
    state: int,
    words: np.ndarray,
    count: int,
    features: np.ndarray,
    max_error: int,
    net: Network,
    tables: MixtureTables,
) -> tuple[np.ndarray, int, int]:
    """Return the levels (N,H,W,C) that a stream goes on with, and the state and words after them."""
    images, height, width, _ = features.shape
    channels = len(net.own_bias)
    margin = _margin_of(net.offsets)
    row = (width + 2 * margin) * channels
    offsets, each = _flat_offsets(net.offsets, row, channels), net.each
    work = _network_workplace(net.lanes, net)
    weights, locations, steepnesses = workplace(net.lanes, each)
    logistic = tables.logistic
    likely = np.empty((net.lanes, 3), np.int64)  # a level, its first slot, the next level's
    pixels = np.zeros((net.lanes, channels), np.uint8)
    levels = np.empty((images, height, width, channels), np.uint8)
    for first in range(0, images, net.lanes):
        lanes = min(net.lanes, images - first)
        flat = np.zeros(lanes * (height + margin) * row, np.int16)
        for y in range(height):
            for x in range(width):
                place = (y + margin) * row + (x + margin) * channels
                for n in range(lanes):
                    base = place + n * (height + margin) * row
                    _see(flat, base, offsets, features[first + n, y, x], n, work.inputs)
                _set_seen(lanes, net, work)
                for c in range(channels):
                    _set_parameters(lanes, c, pixels, net, work)
                    set_mixtures(work.outputs, lanes, tables, each, weights, locations, steepnesses)
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
                        level, start, end = likely[n, 0], likely[n, 1], likely[n, 2]
                        if not start <= slot < end:
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


@compiled
def code_near(
    decoding: bool,
    state: int,
    words: np.ndarray,
    count: int,
    levels: np.ndarray,
    errors: np.ndarray,
    features: np.ndarray,
    net: Network,
    tables: MixtureTables,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Code images (N,H,W,C) whose pixels have an error each (N,H,W); `levels` become what comes back.

    Pixels of error NOT_CODED keep the levels they have, and none that has another error comes after one.
    Levels that an error makes one come back as their mean, here and in the contexts of those that follow.
    Returns every level's first slot and number of slots, and what each image costs; decoding, nothing of
    these, but the state and the words after the images.
    """
    images, height, width, channels = levels.shape
    margin = _margin_of(net.offsets)
    row = (width + 2 * margin) * channels
    offsets, each = _flat_offsets(net.offsets, row, channels), net.each
    work = _network_workplace(net.lanes, net)
    weights, locations, steepnesses = workplace(net.lanes, each)
    logistic = tables.logistic
    pixels = np.zeros((net.lanes, channels), np.uint8)
    symbols = 0 if decoding else levels.size
    starts, frequencies = np.empty(symbols, np.int64), np.empty(symbols, np.int64)
    costs = np.zeros(images, np.int64)
    symbol = 0
    for first in range(0, images, net.lanes):
        lanes = min(net.lanes, images - first)
        flat = np.zeros(lanes * (height + margin) * row, np.int16)
        for y in range(height):
            for x in range(width):
                place = (y + margin) * row + (x + margin) * channels
                if errors[first : first + lanes, y, x].min() == NOT_CODED:
                    break
                for n in range(lanes):
                    base = place + n * (height + margin) * row
                    _see(flat, base, offsets, features[first + n, y, x], n, work.inputs)
                _set_seen(lanes, net, work)
                for c in range(channels):
                    _set_parameters(lanes, c, pixels, net, work)
                    set_mixtures(work.outputs, lanes, tables, each, weights, locations, steepnesses)
                    for n in range(lanes):
                        if errors[first + n, y, x] == NOT_CODED:
                            continue
                        level = int(levels[first + n, y, x, c])
                        if decoding:
                            slot = state & (TOTAL - 1)
                            level, start, end = find_level(
                                slot, n, weights, locations, steepnesses, each, logistic
                            )
                        low, high = levels_near(level, int(errors[first + n, y, x]))
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
    return starts[:symbol], frequencies[:symbol], costs, state, count
