"""Discrete distributions of an image given z: each sums to one over a pixel's levels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from models.config import LikelihoodConfig

Levels = UInt8[Tensor, "batch channel height width"]
Parameters = Float[Tensor, "batch channel parameter height width"]
PerPixel = Float[Tensor, "batch channel height width"]


class Likelihood(ABC):
    """p(levels given z), pixels independent, from `parameters` numbers for each channel of a pixel.

    Channels are independent too, unless a LogisticMixture is conditional.
    """

    parameters: int

    def __init__(self, levels: int) -> None:
        self.levels = levels

    @abstractmethod
    def log_prob_per_pixel(self, levels: Levels, parameters: Parameters) -> PerPixel:
        """Return each pixel's log probability, in nats."""

    @abstractmethod
    def mean(self, parameters: Parameters) -> PerPixel:
        """Return each pixel's mean, in levels (0 … levels − 1)."""

    def log_prob(self, levels: Levels, parameters: Parameters) -> Float[Tensor, " batch"]:
        """Return log p(levels given z) summed over an image, in nats."""
        return self.log_prob_per_pixel(levels, parameters).sum(dim=(1, 2, 3))


class Bernoulli(Likelihood):
    """Binary pixels from one logit."""

    parameters = 1

    def log_prob_per_pixel(self, levels: Levels, parameters: Parameters) -> PerPixel:
        """Return x·log p + (1 − x)·log(1 − p)."""
        logit = parameters[:, :, 0]
        return F.logsigmoid(torch.where(levels > 0, logit, -logit))

    def mean(self, parameters: Parameters) -> PerPixel:
        """Return the probability of level 1."""
        return torch.sigmoid(parameters[:, :, 0])


class BetaBinomial(Likelihood):
    """Counts out of n = levels − 1 with a Beta(a, b) success rate."""

    parameters = 2

    def _concentrations(self, parameters: Parameters) -> tuple[PerPixel, PerPixel]:
        concentrations = F.softplus(parameters) + 1e-3
        return concentrations[:, :, 0], concentrations[:, :, 1]

    def log_prob_per_pixel(self, levels: Levels, parameters: Parameters) -> PerPixel:
        """Return log C(n, k) + log B(k + a, n − k + b) − log B(a, b)."""
        # In double precision: the terms reach some 10⁴ nats and nearly cancel.
        a, b = self._concentrations(parameters.double())
        n = self.levels - 1
        k = levels.double()
        log_choose = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        return (log_choose + _log_beta(k + a, n - k + b) - _log_beta(a, b)).to(parameters.dtype)

    def mean(self, parameters: Parameters) -> PerPixel:
        """Return n·a / (a + b)."""
        a, b = self._concentrations(parameters)
        return (self.levels - 1) * a / (a + b)


class LogisticMixture(Likelihood):
    """Discretised mixture of logistics, the outermost bins open (PixelCNN++, Salimans et al. 2017).

    Parameters a pixel: K mixture logits, then K locations and K log scales before their bounds. In units
    where the levels span −1 … 1, a location is 1.25·tanh(l) and a log scale −3 + 4·tanh(s/4): unbounded
    ones of components that a pixel does not use drift until their gradients are NaN.

    `conditional`, of three channels: two slopes a pixel follow. The locations of green move with red's
    distance from the mean of red's locations, those of blue with red's and green's; slopes are 2·tanh(s/2).
    """

    LOCATION_BOUND = 1.25
    LOG_SCALE_CENTRE, LOG_SCALE_REACH = -3.0, 4.0
    SLOPES, SLOPE_BOUND = 2, 2.0

    def __init__(self, levels: int, components: int, conditional: bool = False) -> None:
        super().__init__(levels)
        self.components, self.conditional = components, conditional
        self.parameters = 3 * components + (self.SLOPES if conditional else 0)

    def _split(self, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        logits, locations, log_scales = parameters[:, :, : 3 * self.components].chunk(3, dim=2)
        reach = self.LOG_SCALE_REACH
        return (
            F.log_softmax(logits, dim=2),
            self.LOCATION_BOUND * torch.tanh(locations),
            self.LOG_SCALE_CENTRE + reach * torch.tanh(log_scales / reach),
        )

    def _moves(self, x: PerPixel, parameters: Parameters, means: PerPixel) -> PerPixel:
        """Return how far each channel's locations are moved by the channels before it."""
        bound = self.SLOPE_BOUND
        slopes = bound * torch.tanh(parameters[:, :, 3 * self.components :] / bound)
        red, green, _ = (x - means).unbind(1)
        of_green = slopes[:, 1, 0] * red
        of_blue = slopes[:, 2, 0] * red + slopes[:, 2, 1] * green
        return torch.stack([torch.zeros_like(red), of_green, of_blue], dim=1)

    def log_prob_per_pixel(self, levels: Levels, parameters: Parameters) -> PerPixel:
        """Return logsumexp over components of log weight + log(cdf(upper edge) − cdf(lower edge)).

        σ(u) − σ(l) = σ(u)·σ(−l)·(1 − exp(l − u)) keeps full precision in both tails, and u − l depends
        on the scale alone. An open bin drops the factor of its missing edge.
        """
        log_weights, locations, log_scales = self._split(parameters)
        half_bin = 1 / (self.levels - 1)
        x = levels.to(locations.dtype) * (2 * half_bin) - 1
        if self.conditional:
            means = (log_weights.exp() * locations).sum(dim=2)
            locations = locations + self._moves(x, parameters, means).unsqueeze(2)
        centred = x.unsqueeze(2) - locations
        inverse_scales = torch.exp(-log_scales)
        has_lower, has_upper = (levels > 0).unsqueeze(2), (levels < self.levels - 1).unsqueeze(2)
        zero = centred.new_zeros(())
        log_mass = (
            torch.where(has_upper, F.logsigmoid(inverse_scales * (centred + half_bin)), zero)
            + torch.where(has_lower, F.logsigmoid(-inverse_scales * (centred - half_bin)), zero)
            + torch.where(has_lower & has_upper, _log1mexp(2 * half_bin * inverse_scales), zero)
        )
        return torch.logsumexp(log_weights + log_mass, dim=2)

    def mean(self, parameters: Parameters) -> PerPixel:
        """Return the mean of the logistics clipped to the range of levels.

        E[clip(X, 0, n)] = ∫₀ⁿ P(X > t) dt = s·(softplus(m / s) − softplus((m − n) / s)). It differs from
        the mean of the discretised distribution by less than half a level, and by less than 0.03 of one
        where the scale exceeds half a level. A conditional mixture's is taken where the channels before are
        at their means, which move nothing.
        """
        log_weights, locations, log_scales = self._split(parameters)
        n = self.levels - 1
        location, scale = (locations + 1) * (n / 2), torch.exp(log_scales) * (n / 2)
        means = scale * (F.softplus(location / scale) - F.softplus((location - n) / scale))
        return (log_weights.exp() * means).sum(dim=2)


def build_likelihood(config: LikelihoodConfig, levels: int) -> Likelihood:
    """Build the distribution that a config names."""
    match config.name:
        case "bernoulli":
            return Bernoulli(levels)
        case "beta-binomial":
            return BetaBinomial(levels)
        case _:
            return LogisticMixture(levels, config.components, config.conditional)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _log1mexp(positive: Tensor) -> Tensor:
    return torch.log(-torch.expm1(-positive))
