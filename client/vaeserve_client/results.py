"""What comes back, as frozen dataclasses around numpy arrays that own their memory and may be written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Encoded:
    """q(z given x) of each image: a normal distribution, independent in each of D dimensions."""

    mu: Floats  # (N, D)
    logvar: Floats  # (N, D), log sigma²

    def __len__(self) -> int:
        return len(self.mu)

    @property
    def std(self) -> Floats:
        """Sigma, (N, D)."""
        return np.exp(self.logvar / 2)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images that the service made."""

    pixels: Levels  # (N, H, W, C), C of 1 grey, 3 RGB or 4 RGBA

    def __len__(self) -> int:
        return len(self.pixels)

    def to_pil(self) -> list[PIL.Image.Image]:
        """Return each image as a PIL image."""
        return [to_pil(image) for image in self.pixels]


@dataclass(frozen=True, eq=False)
class Samples(Pictures):
    """Images from the prior: the images `offset` … `offset` + N − 1 of a seed."""

    seed: int
    offset: int
    latents: Floats | None = None  # (N, D), where they were asked for


@dataclass(frozen=True, eq=False)
class Scores:
    """Bounds on log p(x) of each image, in nats, (N,): a low elbo, a high nll, marks an anomaly."""

    elbo: Floats
    nll: Floats
    kl: Floats
    distortion: Floats
    bits_per_dim: Floats  # of the elbo
    samples: int  # K of the nll
    model: str

    def __len__(self) -> int:
        return len(self.elbo)


@dataclass(frozen=True)
class Compressed:
    """A payload, and what it saved."""

    payload: bytes
    original_bytes: int  # of the pixels

    @property
    def compressed_bytes(self) -> int:
        """Bytes of the payload."""
        return len(self.payload)

    @property
    def bits_per_dim(self) -> float:
        """Bits of the payload for each level of the images."""
        return 8 * len(self.payload) / self.original_bytes


@dataclass(frozen=True)
class Model:
    """A loaded model, as the service describes it."""

    id: str
    digest: str
    codec: str | None  # digest of the codec; None where the model has none
    device: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    limits: Mapping[str, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The images that it takes: channels, height, width."""
        channels, height, width = self.config["input"]["shape"]
        return channels, height, width

    @property
    def latent_dim(self) -> int:
        """D, the number of a latent's dimensions."""
        return int(self.config["latent_dim"])


@dataclass(frozen=True)
class Models:
    """What is loaded; `default` answers calls that name no model."""

    default: str
    models: tuple[Model, ...]


def to_pil(image: Levels) -> PIL.Image.Image:
    """Return uint8 (H, W) or (H, W, C), C of 1, 3 or 4, as a PIL image."""
    return PIL.Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
