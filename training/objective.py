"""The one thing minimised: loss = mean(distortion + beta·kl), composed from models/objectives.py."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.likelihoods import Levels
from models.objectives import (
    free_bits_kl,
    gaussian_kl,
    gaussian_kl_per_dim,
    log_gaussian,
    log_px_z,
    monte_carlo_kl,
    score_function_surrogate,
)
from models.vae import VAE, Autoencoder, Coder
from training.config import ObjectiveConfig
from training.inputs import Noise


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, and per-example means of its parts for the record, in nats."""

    loss: Tensor
    distortion: Tensor
    kl: Tensor


class Objective(nn.Module):
    """A model with its loss: one forward call a step, as data-parallel training needs."""

    def __init__(self, model: Coder, config: ObjectiveConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, levels: Levels, eps: Noise, beta: float) -> Loss:
        """Return the loss of a batch for K noise samples an image."""
        if isinstance(self.model, Autoencoder):
            return self._autoencoder(self.model, levels)
        assert isinstance(self.model, VAE)
        if self.config.estimator == "score-function":
            return self._score_function(self.model, levels, eps, beta)
        return self._reparameterised(self.model, levels, eps, beta)

    def _autoencoder(self, model: Autoencoder, levels: Levels) -> Loss:
        parameters = model.decode(model.code(model.normalise(levels)))
        distortion = -model.likelihood.log_prob(levels, parameters).mean()
        return Loss(distortion, distortion, distortion.new_zeros(()))

    def _reparameterised(self, model: VAE, levels: Levels, eps: Noise, beta: float) -> Loss:
        mu, logvar = model.encode(model.normalise(levels))
        z = model.reparameterise(mu, logvar, eps)
        distortion = -log_px_z(model, levels, z).mean()
        if self.config.kl == "monte-carlo":
            kl = monte_carlo_kl(z, mu, logvar).mean()
            return Loss(distortion + beta * kl, distortion, kl)
        per_dim = gaussian_kl_per_dim(mu, logvar)
        penalty = free_bits_kl(per_dim, self.config.free_bits)
        return Loss(distortion + beta * penalty, distortion, per_dim.sum(dim=1).mean())

    def _score_function(self, model: VAE, levels: Levels, eps: Noise, beta: float) -> Loss:
        mu, logvar = model.encode(model.normalise(levels))
        z = model.reparameterise(mu, logvar, eps).detach()
        log_likelihood = log_px_z(model, levels, z)
        surrogate = score_function_surrogate(log_likelihood, log_gaussian(z, mu, logvar)).mean()
        distortion, kl = -log_likelihood.mean(), gaussian_kl(mu, logvar).mean()
        # The surrogate adds its gradient (the encoder's) and nothing to the value.
        return Loss(distortion - (surrogate - surrogate.detach()) + beta * kl, distortion, kl)
