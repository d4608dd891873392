"""What a batch can compute: one function of a model and a tensor of rows for each operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from codec.encoding import LOSSLESS, Manner
from models.noise import normal_noise
from models.objectives import bounds
from models.vae import VAE

SCORE_SEED = 0
MAX_DECODED = 256  # images times samples at once
SCORES = ("elbo", "nll", "kl", "distortion")


class Operation(StrEnum):
    """What is computed on the rows of a job."""

    ENCODE = "encode"  # uint8 (N,H,W,C) → float32 mu, logvar (N,D)
    DECODE = "decode"  # float32 (N,D) → uint8 (N,H,W,C)
    RECONSTRUCT = "reconstruct"  # uint8 (N,H,W,C) → uint8 (N,H,W,C)
    SCORE = "score"  # uint8 (N,H,W,C) → float32 elbo, nll, kl, distortion (N,)
    # Of the coding engine alone, whose rows are chunks.
    COMPRESS = "compress"  # images (N,C,H,W) → Stream
    COMPRESS_FAST = "compress-fast"  # the same
    DECOMPRESS = "decompress"  # Chunk → images (N,C,H,W), or PayloadError

    @property
    def takes_latents(self) -> bool:
        """Whether rows are latents; images otherwise."""
        return self is Operation.DECODE


@dataclass(frozen=True)
class ModelTask:
    """An operation of a model: jobs with equal tasks share batches."""

    model: str
    operation: Operation
    samples: int = 1  # K of the score: what a row costs, in decoded latents
    manner: Manner = LOSSLESS  # of compression


Outputs = tuple[Tensor, ...]


def run_operation(model: VAE, task: ModelTask, rows: Tensor) -> Outputs:
    """Compute a task on rows that lie on the model's device."""
    if task.operation is Operation.SCORE:
        return score(model, rows, task.samples)
    return GRAPHABLE[task.operation](model, rows)


def encode(model: VAE, images: Tensor) -> Outputs:
    """Return mu and logvar."""
    return model.encode(model.normalise(_levels(model, images)))


def decode(model: VAE, z: Tensor) -> Outputs:
    """Return the means of p(x given z) as images."""
    return (model.to_pixels(model.x_hat(z)).permute(0, 2, 3, 1).contiguous(),)


def reconstruct(model: VAE, images: Tensor) -> Outputs:
    """Return images through mu and back."""
    mu, _ = encode(model, images)
    return decode(model, mu)


def score(model: VAE, images: Tensor, samples: int) -> Outputs:
    """Return the SCORES of each image from K latent samples.

    Every image gets the same noise, so its score does not depend on its place in a batch.
    """
    noise = normal_noise(SCORE_SEED, 0, samples, model.config.latent_dim)
    eps = torch.from_numpy(noise).to(images.device)[:, None, :]
    levels = _levels(model, images)
    found = [
        bounds(model, part, eps.expand(-1, len(part), -1), MAX_DECODED)
        for part in levels.split(max(1, MAX_DECODED // samples))
    ]
    return tuple(torch.cat([part[name] for part in found]) for name in SCORES)


GRAPHABLE: dict[Operation, Callable[[VAE, Tensor], Outputs]] = {
    Operation.ENCODE: encode,
    Operation.DECODE: decode,
    Operation.RECONSTRUCT: reconstruct,
}


def example_rows(model: VAE, operation: Operation, count: int) -> np.ndarray:
    """Return zero rows of the right shape and type, for warm-up."""
    channels, height, width = model.config.input.shape
    if operation.takes_latents:
        return np.zeros((count, model.config.latent_dim), np.float32)
    return np.zeros((count, height, width, channels), np.uint8)


def _levels(model: VAE, images: Tensor) -> Tensor:
    # Not contiguous(): it leaves the strides of axes of length one, by which convolutions choose a kernel,
    # and the answer would differ in its last bit from the model run on an ordinary (B, C, H, W) tensor.
    return model.to_levels(images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format))
