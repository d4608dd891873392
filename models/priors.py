"""What z is sampled from: the standard normal, or a mixture fitted to the aggregated posterior."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from jaxtyping import Float32

from models.noise import component_noise, normal_noise

Prior = Literal["standard", "aggregated"]
ACTIVE_VARIANCE = 0.01  # of mu over the data, above which a latent counts as active (Burda et al. 2015)
GATHERED = 1 << 20  # numbers of the Cholesky factors at once


@dataclass(frozen=True)
class AggregatedPosterior:
    """The distribution of z over the training data: moments of mu, and a Gaussian mixture for sampling."""

    mean: Float32[np.ndarray, " latent"]
    std: Float32[np.ndarray, " latent"]
    active: np.ndarray  # bool (latent,)
    weights: Float32[np.ndarray, " component"]
    means: Float32[np.ndarray, "component latent"]
    cholesky: Float32[np.ndarray, "component latent latent"]  # lower triangular, covariance = L·Lᵀ

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every array by name, as latents.safetensors holds them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def sample_latents(
    posterior: AggregatedPosterior,
    prior: Prior,
    *,
    seed: int,
    offset: int,
    count: int,
    temperature: float,
) -> Float32[np.ndarray, "count latent"]:
    """Draw z of items offset … offset + count − 1 of a seed; `temperature` scales the noise."""
    noise = normal_noise(seed, offset, count, len(posterior.mean)) * np.float32(temperature)
    if prior == "standard":
        return noise
    cumulative = np.cumsum(posterior.weights, dtype=np.float64)
    uniform = component_noise(seed, offset, count) * cumulative[-1]
    # From the left: a uniform of exactly 1 belongs to the last component, and none of weight 0 is chosen.
    component = np.searchsorted(cumulative, uniform, side="left")
    # Not a matrix product: its rounding depends on the number of rows, and an item's z must not.
    rows = max(1, GATHERED // noise.shape[1] ** 2)
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        spread = posterior.cholesky[component[part]] * noise[part, None, :]
        noise[part] = posterior.means[component[part]] + spread.sum(axis=2)
    return noise
