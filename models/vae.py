"""The variational autoencoder (Kingma and Welling 2013): encoder, reparameterisation, decoder.

levels (B,C,H,W) uint8 ─► x ─► encoder ─► mu, logvar ─► z = mu + std·eps ─► decoder ─► parameters
                                                                               p(levels given z)
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from models.config import VAEConfig
from models.likelihoods import Levels, Parameters, build_likelihood

Latent = Float[Tensor, "batch latent"]
Input = Float[Tensor, "batch channel height width"]  # x: levels scaled to the config's range
Pixels = UInt8[Tensor, "batch channel height width"]  # 0 … 255, whatever the number of levels

# Rectifiers that do not leak go silent for good, most of a block within an epoch, at the learning rates that
# the other layers need. A power of two is a shift where the network runs on integers.
NEGATIVE_SLOPE = 1 / 8


def rectified(h: Tensor) -> Tensor:
    """Return max(h, NEGATIVE_SLOPE·h)."""
    return nn.functional.leaky_relu(h, NEGATIVE_SLOPE)


def rectifier() -> nn.Module:
    """Return `rectified` as a layer."""
    return nn.LeakyReLU(NEGATIVE_SLOPE)


class ResidualBlock(nn.Module):
    """h + conv(rectified(conv(rectified h))), the identity at initialisation.

    No normalisation layer: nothing depends on the other images of a batch, and the decoder stays a
    chain of products, sums and rectifiers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        """Return a tensor of the shape of `h`."""
        return h + self.second(rectified(self.first(rectified(h))))


class Upsample(nn.Module):
    """Double height and width, cropped to `size` where a stage had an odd one."""

    def __init__(self, channels_in: int, channels_out: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1)
        self.height, self.width = size

    def forward(self, h: Tensor) -> Tensor:
        """Return (batch, channels_out, *size)."""
        h = nn.functional.pixel_shuffle(self.convolution(h), 2)
        return h[:, :, : self.height, : self.width]


def stage_sizes(height: int, width: int, stages: int) -> list[tuple[int, int]]:
    """Return the size of the image and after each halving stage, rounded up."""
    return [(math.ceil(height / 2**s), math.ceil(width / 2**s)) for s in range(stages + 1)]


def convolutional_encoder(config: VAEConfig, outputs: int) -> nn.Sequential:
    """Build x (B,C,H,W) → (B, outputs): a halving convolution and residual blocks in each stage."""
    channels, height, width = config.input.shape
    layers: list[nn.Module] = []
    for stage, (width_out, blocks) in enumerate(zip(config.channels, config.blocks, strict=True)):
        kernel = 5 if stage == 0 else 3
        layers.append(nn.Conv2d(channels, width_out, kernel, stride=2, padding=kernel // 2))
        layers.extend(ResidualBlock(width_out) for _ in range(blocks))
        layers.append(rectifier())
        channels = width_out
    bottom_height, bottom_width = stage_sizes(height, width, len(config.channels))[-1]
    layers.extend([nn.Flatten(), nn.Linear(channels * bottom_height * bottom_width, outputs)])
    return nn.Sequential(*layers)


def convolutional_decoder(config: VAEConfig, per_pixel: int) -> nn.Sequential:
    """Build z (B,D) → (B, C·per_pixel, H, W), the encoder's stages in reverse."""
    sizes = stage_sizes(*config.input.shape[1:], stages=len(config.channels))
    top = config.channels[-1]
    layers: list[nn.Module] = [
        nn.Linear(config.latent_dim, top * sizes[-1][0] * sizes[-1][1]),
        nn.Unflatten(1, (top, *sizes[-1])),
    ]
    widths_out = [config.input.shape[0] * per_pixel, *config.channels[:-1]]
    stages = zip(config.channels, widths_out, config.blocks, sizes[:-1], strict=True)
    for width_in, width_out, blocks, size in reversed(list(stages)):
        layers.extend(ResidualBlock(width_in) for _ in range(blocks))
        layers.extend([rectifier(), Upsample(width_in, width_out, size)])
    return nn.Sequential(*layers)


def fully_connected(widths: tuple[int, ...]) -> nn.Sequential:
    """Build linear layers of these widths with rectifiers between them."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers.extend([nn.Linear(width_in, width_out), rectifier()])
    return nn.Sequential(*layers[:-1])


class Coder(nn.Module):
    """An encoder and a decoder with p(levels given z): what a VAE and an autoencoder share."""

    encoder_outputs: int  # numbers the encoder gives for each latent

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.likelihood = build_likelihood(config.likelihood, config.input.levels)
        self.encoder = self._build_encoder(self.encoder_outputs * config.latent_dim)
        self.decoder = self._build_decoder(self.likelihood.parameters)

    def _build_encoder(self, outputs: int) -> nn.Sequential:
        if self.config.family == "convolutional":
            return convolutional_encoder(self.config, outputs)
        pixels = math.prod(self.config.input.shape)
        return nn.Sequential(nn.Flatten(), *fully_connected((pixels, *self.config.channels, outputs)))

    def _build_decoder(self, per_pixel: int) -> nn.Sequential:
        if self.config.family == "convolutional":
            return convolutional_decoder(self.config, per_pixel)
        channels, height, width = self.config.input.shape
        outputs = channels * per_pixel * height * width
        return fully_connected((self.config.latent_dim, *reversed(self.config.channels), outputs))

    def to_levels(self, pixels: Pixels) -> Levels:
        """Return the levels of pixels 0 … 255: the same, or pixel ≥ 128 where there are two levels."""
        return (pixels >= 128).to(torch.uint8) if self.config.input.levels == 2 else pixels

    def normalise(self, levels: Levels) -> Input:
        """Return x: levels scaled to the range in the config."""
        low, high = self.config.input.range
        return levels.float() * ((high - low) / (self.config.input.levels - 1)) + low

    def to_pixels(self, x_hat: Input) -> Pixels:
        """Return x scaled to pixels 0 … 255 and rounded."""
        low, high = self.config.input.range
        return ((x_hat - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)

    def decode(self, z: Latent) -> Parameters:
        """Return the parameters of p(levels given z), float32."""
        h = self.decoder[:-1](z)
        # Locations need more than bfloat16's eight bits, so mixed precision ends before the last layer.
        with torch.autocast(z.device.type, enabled=False):
            h = self.decoder[-1](h.float())
        channels, height, width = self.config.input.shape
        return h.reshape(z.shape[0], channels, self.likelihood.parameters, height, width)

    def x_hat(self, z: Latent) -> Input:
        """Return the mean of p(x given z), in x's range."""
        low, high = self.config.input.range
        return self.likelihood.mean(self.decode(z)) * ((high - low) / (self.config.input.levels - 1)) + low


class VAE(Coder):
    """q(z given x) = N(mu, std²), p(z) = N(0, 1), p(levels given z) from `likelihood`."""

    encoder_outputs = 2

    def encode(self, x: Input) -> tuple[Latent, Latent]:
        """Return mu and logvar of q(z given x), logvar clamped to the range in the config."""
        mu, logvar = self.encoder(x).float().chunk(2, dim=1)
        return mu, logvar.clamp(*self.config.clamp)

    @staticmethod
    def reparameterise(mu: Latent, logvar: Latent, eps: Float[Tensor, "*samples batch latent"]) -> Tensor:
        """Return z = mu + exp(logvar / 2)·eps, of the shape of `eps`."""
        return mu + torch.exp(logvar / 2) * eps


class Autoencoder(Coder):
    """The deterministic baseline: one code an image, no distribution over codes to sample from."""

    encoder_outputs = 1

    def code(self, x: Input) -> Latent:
        """Return the code of each image."""
        code: Tensor = self.encoder(x).float()
        return code
