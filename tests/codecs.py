"""Codecs small enough for a test: grey and RGB, one stage and two, of networks trained for a moment.

`alone` is one whose levels are coded without latents.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from codec.classical import decode_classical, encode_lossy_classical
from codec.encoding import Manner, Stream, assembled
from codec.model import dumped
from models.config import InputConfig, LikelihoodConfig, VAEConfig
from models.vae import VAE
from training.codec import fit_codec
from training.config import CodecTraining, FastTraining
from training.datasets import Dataset

SHAPES = {"grey": (1, 8, 8), "rgb": (3, 9, 10), "alone": (3, 9, 10)}
TRAINING = CodecTraining(
    latent_step=1.0,
    reach=2,
    features=4,
    hidden=16,
    layers=2,
    components=2,
    epochs=60,
    batch_size=8,
    learning_rate=0.02,
    warmup_steps=5,
    fast=FastTraining(hidden=8, components=2, epochs=30, learning_rate=0.02),
)


MEANS = 150.0  # of latents: initial ones would all be the same in steps of σ


def pictures(shape: tuple[int, int, int], count: int, seed: int = 0) -> np.ndarray:
    """Return slopes with a little noise (N, C, H, W)."""
    rng = np.random.default_rng(seed)
    _, height, width = shape
    slope = np.add.outer(8 * np.arange(height), 6 * np.arange(width))
    start = rng.integers(0, 60, (count, shape[0], 1, 1))
    return (slope + start + rng.integers(0, 6, (count, *shape))).astype(np.uint8)


def lossy_webp(images: np.ndarray, quality: int) -> bytes:
    """Return a payload of colour images as a lossy WebP, whatever would serve them best."""
    content = encode_lossy_classical(images, quality)
    back = decode_classical(content, images.shape[1:], len(images))
    return assembled([Stream(content, True, back)], None, Manner(quality=quality))


def tiny_vae(shape: tuple[int, int, int], means: float = 1.0) -> VAE:
    """Return a VAE as it is initialised, its residual blocks awake, its latents' means multiplied."""
    config = VAEConfig(
        family="convolutional",
        latent_dim=5,
        channels=(8,) if shape[0] == 1 else (8, 12),
        blocks=(1,) if shape[0] == 1 else (1, 2),
        likelihood=LikelihoodConfig(name="logistic-mixture", components=2),
        input=InputConfig(shape=shape),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE(config).eval()
        for name, parameter in model.named_parameters():
            if "second.weight" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        linear = model.encoder[-1]
        assert isinstance(linear, torch.nn.Linear)
        with torch.no_grad():
            linear.weight[: config.latent_dim] *= means
    return model


def tiny_data(shape: tuple[int, int, int]) -> Dataset:
    return Dataset(pictures(shape, 64), pictures(shape, 16, seed=1), None, None, "sha256:tiny")


@cache
def fitted(kind: str) -> bytes:
    """Return the content of codec.safetensors."""
    shape = SHAPES[kind]
    config = TRAINING.model_copy(update={"features": 0}) if kind == "alone" else TRAINING
    return dumped(fit_codec(tiny_vae(shape, MEANS), tiny_data(shape), config, seed=0).codec)
