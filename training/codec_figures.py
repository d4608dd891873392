"""What images cost a codec: as payloads, by its own estimate, and by the networks that it was made of.

    images ─► payload                                            bits_per_dim
           ─► integer networks ─► −log2 of each symbol's share   integer_estimate
           ─► networks in floats ─► −log2 p                      float_estimate

The first over the second is what the coder and the headers add, the second over the third what integers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from codec.chunk import shares_of_chunk, shares_of_fast_chunk
from codec.encoding import KINDS, Effort, Manner, compress
from codec.latents import slots_of_latents, within
from codec.model import CodecModel
from codec.rans import TOTAL
from models.vae import VAE
from training.codec import CodecNetwork, Fitted, LevelNetwork
from training.context import ALL_PIXELS
from training.evaluation import posteriors
from training.inputs import levels_on_device

BATCH = 50  # images at once: each pixel of each has its hidden units
SHARES: dict[Effort, Callable[[CodecModel, np.ndarray], np.ndarray]] = {
    "best": shares_of_chunk,
    "fast": shares_of_fast_chunk,
}


class CodecFigures(NamedTuple):
    """Bits/dim of images by effort."""

    bits_per_dim: dict[Effort, float]  # of one payload, all bytes counted
    integer_estimate: dict[Effort, float]
    float_estimate: dict[Effort, float]


def codec_figures(fitted: Fitted, model: VAE, images: np.ndarray) -> CodecFigures:
    """Return the figures of a codec on images of its shape, uint8 (N, C, H, W); `model` is its VAE."""
    codec = fitted.codec
    networks: dict[Effort, CodecNetwork | LevelNetwork] = {"best": fitted.best, "fast": fitted.fast}
    return CodecFigures(
        {effort: 8 * len(compress(images, codec, Manner(effort))) / images.size for effort in KINDS},
        {effort: _integer_bits(codec, SHARES[effort], images) / images.size for effort in KINDS},
        {effort: _float_bits(codec, networks[effort], model, images) / images.size for effort in KINDS},
    )


def _integer_bits(
    codec: CodecModel, shares: Callable[[CodecModel, np.ndarray], np.ndarray], images: np.ndarray
) -> float:
    return sum(_bits(shares(codec, images[i : i + BATCH])) for i in range(0, len(images), BATCH))


@torch.inference_mode()
def _float_bits(
    codec: CodecModel, network: CodecNetwork | LevelNetwork, model: VAE, images: np.ndarray
) -> float:
    bits = 0.0
    for i in range(0, len(images), BATCH):
        levels = levels_on_device(model, images[i : i + BATCH])
        on_cpu = levels.cpu()
        if isinstance(network, LevelNetwork):
            mean = network.bits(on_cpu, ALL_PIXELS)
        else:
            mu, _ = posteriors(model, levels)
            k = within(np.rint(mu / network.steps.numpy()), codec.latents)
            bits += _bits(slots_of_latents(k, codec.latents)[1])
            mean = network.bits(on_cpu, torch.from_numpy(k).float(), ALL_PIXELS)
        bits += float(mean) * levels.numel()
    return bits


def _bits(shares: np.ndarray) -> float:
    return float(-np.log2(shares / TOTAL).sum())
