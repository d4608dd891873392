"""Small bundles with random weights, for tests that need a servable model and not a good one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.bundle import Estimate, Metrics, save_bundle
from models.config import InputConfig, LikelihoodConfig, VAEConfig
from models.priors import AggregatedPosterior
from models.vae import VAE

ZERO = Estimate(mean=0.0, standard_error=0.0)
METRICS = Metrics(
    n=1,
    seed=0,
    elbo=ZERO,
    kl=ZERO,
    distortion=ZERO,
    bits_per_dim=ZERO,
    nll=ZERO,
    nll_bits_per_dim=ZERO,
    nll_samples=1,
    nll_n=1,
    active_dims=0,
    linear_accuracy=None,
)


def small_config(shape: tuple[int, int, int] = (1, 8, 8), latent_dim: int = 4) -> VAEConfig:
    return VAEConfig(
        family="convolutional",
        latent_dim=latent_dim,
        channels=(8, 8),
        blocks=(1, 1),
        likelihood=LikelihoodConfig(name="logistic-mixture", components=2),
        input=InputConfig(shape=shape),
    )


def save_small_bundle(
    path: Path, config: VAEConfig, change: Callable[[VAE], None] = lambda model: None, **options: Any
) -> Path:
    """Save a bundle with random weights (seed 0), altered by `change`, and a two-component mixture.

    `options` are those of save_bundle.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE(config)
    change(model)
    d = config.latent_dim
    latents = AggregatedPosterior(
        mean=np.zeros(d, np.float32),
        std=np.ones(d, np.float32),
        active=np.ones(d, bool),
        weights=np.full(2, 0.5, np.float32),
        means=np.stack([np.full(d, -1, np.float32), np.full(d, 1, np.float32)]),
        cholesky=np.stack([np.eye(d, dtype=np.float32)] * 2),
    )
    levels = np.random.default_rng(0).integers(0, 256, (4, *config.input.shape), np.uint8)
    content: dict[str, Any] = {"metrics": METRICS, "training": {}, "card": "# small\n"}
    save_bundle(path, model, latents=latents, golden_levels=levels, **{**content, **options})
    return path
