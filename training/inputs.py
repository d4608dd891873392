"""What a model is fed with: images as levels and counted noise, on its device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.likelihoods import Levels
from models.noise import normal_noise
from models.vae import Coder

Noise = Float[Tensor, "samples batch latent"]


def device_of(model: Coder) -> torch.device:
    """Return the device that a model's weights lie on."""
    return next(model.parameters()).device


def levels_on_device(model: Coder, pixels: np.ndarray) -> Levels:
    """Return images (N, C, H, W) as the levels of a model's likelihood."""
    return model.to_levels(torch.from_numpy(pixels).to(device_of(model)))


def latent_noise(model: Coder, seed: int, offset: int, count: int, samples: int = 1) -> Noise:
    """Return the noise of z for K samples of items offset … offset + count − 1 of a seed."""
    latent = model.config.latent_dim
    noise = torch.from_numpy(normal_noise(seed, offset, count, samples * latent))
    return noise.to(device_of(model)).unflatten(1, (samples, latent)).transpose(0, 1)


def batches(levels: Levels, size: int) -> Iterator[tuple[int, Levels]]:
    """Yield the levels in batches, each with the index of its first item."""
    for start in range(0, len(levels), size):
        yield start, levels[start : start + size]
