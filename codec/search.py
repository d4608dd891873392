"""Latents searched for: those that cost an image fewest bits, with its levels, near those of the encoder.

The encoder's are the means of q(z given x), rounded; the network that codes the levels given them was trained
with what came of that, and some neighbour nearly always serves an image better.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from codec.context import slots_of_levels
from codec.latents import slots_of_latents, within
from codec.model import CodecModel
from codec.networks import FINER_BITS, LARGEST_LATENT, Latents, Levels
from codec.rans import costs_of

TRIED = 4  # one in so many latents is moved: those that were rounded furthest
TAKEN = 12  # moves at the most, the best first


def searched_latents(model: CodecModel, levels: Levels, max_error: int = 0) -> Latents:
    """Return the integer latents of each image, searched for; none where the codec has none."""
    k = model.latents_of(levels)
    if model.decoder is None:
        return k
    finer = model.encoder.finer_latents(levels).astype(np.int64)
    away = finer - (k.astype(np.int64) << FINER_BITS)
    found = [_searched(model, levels[n, None], k[n, None], away[n], max_error) for n in range(len(levels))]
    return np.concatenate(found)


def _searched(
    model: CodecModel, image: Levels, k: Latents, away: Int64[np.ndarray, " latent"], max_error: int
) -> Latents:
    tried = np.argsort(-np.abs(away), kind="stable")[: -(-len(away) // TRIED)]
    moved = np.repeat(k.astype(np.int64), len(tried), axis=0)
    moved[np.arange(len(tried)), tried] += np.where(away[tried] < 0, -1, 1)
    moved = within(moved.clip(-LARGEST_LATENT, LARGEST_LATENT).astype(np.int8), model.latents)
    unmoved, *costs = _costs(model, image, np.concatenate([k, moved]), max_error)
    least = unmoved
    for move in np.argsort(costs, kind="stable")[:TAKEN]:
        if costs[move] >= unmoved:
            break
        further = k.copy()
        further[0, tried[move]] = moved[move, tried[move]]
        [cost] = _costs(model, image, further, max_error)
        if cost < least:
            least, k = cost, further
    return k


def _costs(model: CodecModel, image: Levels, k: Latents, max_error: int) -> list[int]:
    """Return what an image costs with each of some latents, in COSTS_A_BIT-ths of a bit."""
    in_place = np.repeat(image.transpose(0, 2, 3, 1), len(k), axis=0)
    one_by_one = model.best_network._replace(lanes=1)
    _, of_levels = slots_of_levels(in_place, max_error, model.features_of(k), one_by_one, model.tables)
    _, of_latents = slots_of_latents(k, model.latents)
    both = [frequencies.reshape(len(k), -1) for frequencies in (of_latents, of_levels)]
    return [int(cost) for cost in costs_of(np.concatenate(both, axis=1))]
