"""Bounds on log p(x) and their parts, per example, in nats: higher bounds are better, KL is ≥ 0."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from models.likelihoods import Levels
from models.vae import VAE

PerExample = Float[Tensor, " batch"]
PerSample = Float[Tensor, "samples batch"]
LOG_2PI = math.log(2 * math.pi)


def gaussian_kl_per_dim(
    mu: Float[Tensor, "batch latent"], logvar: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent"]:
    """Return KL(N(mu, exp(logvar)) ‖ N(0, 1)) of each latent: ½(mu² + σ² − 1 − log σ²)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def gaussian_kl(mu: Float[Tensor, "batch latent"], logvar: Float[Tensor, "batch latent"]) -> PerExample:
    """Return KL(q(z given x) ‖ p(z)) in closed form, summed over latents."""
    return gaussian_kl_per_dim(mu, logvar).sum(dim=1)


def log_standard_normal(z: Float[Tensor, "*any latent"]) -> Float[Tensor, "*any"]:
    """Return log N(z; 0, 1), summed over latents."""
    return -0.5 * (z.square() + LOG_2PI).sum(dim=-1)


def log_gaussian(
    z: Float[Tensor, "*any batch latent"],
    mu: Float[Tensor, "batch latent"],
    logvar: Float[Tensor, "batch latent"],
) -> Float[Tensor, "*any batch"]:
    """Return log N(z; mu, exp(logvar)), summed over latents."""
    return -0.5 * ((z - mu).square() * torch.exp(-logvar) + logvar + LOG_2PI).sum(dim=-1)


def monte_carlo_kl(
    z: Float[Tensor, "*any batch latent"],
    mu: Float[Tensor, "batch latent"],
    logvar: Float[Tensor, "batch latent"],
) -> Float[Tensor, "*any batch"]:
    """Return log q(z given x) − log p(z): unbiased for the KL where z comes from q, and can be negative."""
    return log_gaussian(z, mu, logvar) - log_standard_normal(z)


def free_bits_kl(kl_per_dim: Float[Tensor, "batch latent"], nats: float) -> Float[Tensor, ""]:
    """Return Σ over latents of max(nats, batch mean of the KL) (Kingma et al. 2016, equation 15).

    A latent whose mean KL is below `nats` gets no pressure from the prior. Zero `nats` gives the mean KL.
    """
    return kl_per_dim.mean(dim=0).clamp(min=nats).sum()


def iwae_bound(log_px_z: PerSample, log_pz: PerSample, log_qz_x: PerSample) -> PerExample:
    """Return logsumexp over K samples of log p(x, z)/q(z given x), less log K (Burda et al. 2015)."""
    samples = log_px_z.shape[0]
    return torch.logsumexp(log_px_z + log_pz - log_qz_x, dim=0) - math.log(samples)


def score_function_surrogate(signal: PerSample, log_qz_x: PerSample) -> PerExample:
    """Return a value whose gradient is the score-function (REINFORCE) estimate of ∇ E_q[signal].

    Σ_k (signal_k − mean of the other signals)·∇ log q(z_k given x) / K, the leave-one-out baseline of
    Kool et al. 2019: unbiased, and needs K ≥ 2 samples of z, detached from q's parameters.

    Raises ValueError for a single sample.
    """
    samples = signal.shape[0]
    if samples < 2:
        raise ValueError(f"the leave-one-out baseline needs at least 2 samples, got {samples}")
    others = (signal.sum(dim=0, keepdim=True) - signal) / (samples - 1)
    return ((signal - others).detach() * log_qz_x).mean(dim=0)


def bits_per_dim(nats: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return nats / (C·H·W·ln 2)."""
    return nats / (math.prod(shape) * math.log(2))


def log_px_z(model: VAE, levels: Levels, z: Float[Tensor, "samples batch latent"]) -> PerSample:
    """Return log p(levels given z) of each of K latent samples an image."""
    samples, batch, _ = z.shape
    parameters = model.decode(z.flatten(0, 1))
    repeated = levels.repeat(samples, 1, 1, 1)
    return model.likelihood.log_prob(repeated, parameters).unflatten(0, (samples, batch))


def bounds(
    model: VAE, levels: Levels, eps: Float[Tensor, "samples batch latent"], max_decoded: int = 1 << 30
) -> dict[str, PerExample]:
    """Return elbo, kl, distortion and nll of each image with the K given noise samples.

    The distortion is the mean over the samples, the KL is closed-form, and nll = −IWAE bound. At most
    `max_decoded` latents are decoded at once, but never fewer than one an image.
    """
    mu, logvar = model.encode(model.normalise(levels))
    z = model.reparameterise(mu, logvar, eps)
    decoded_samples = max(1, max_decoded // len(levels))
    log_likelihood = torch.cat([log_px_z(model, levels, part) for part in z.split(decoded_samples)])
    kl, distortion = gaussian_kl(mu, logvar), -log_likelihood.mean(dim=0)
    nll = -iwae_bound(log_likelihood, log_standard_normal(z), log_gaussian(z, mu, logvar))
    return {"elbo": -distortion - kl, "kl": kl, "distortion": distortion, "nll": nll}
