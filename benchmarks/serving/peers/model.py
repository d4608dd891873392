"""What all peers share: the bundle, an image out of base64, and a batch through the encoder."""

from __future__ import annotations

import base64
import io
import os

import numpy as np
import torch
from PIL import Image

from models.bundle import bundle_path, load_bundle

Rows = list[dict[str, list[float]]]  # mu and logvar of each image


class Encoder:
    """The model of the bundle named in the environment variable BUNDLE."""

    def __init__(self) -> None:
        bundle = load_bundle(bundle_path(os.environ["BUNDLE"]))
        self.model = bundle.model
        self.channels, self.height, self.width = bundle.config.input.shape

    def decoded(self, text: str) -> np.ndarray:
        """Return the image of a file in base64, uint8 (H, W, C)."""
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        pixels = np.array(image.convert("L" if self.channels == 1 else "RGB"))
        return pixels.reshape(self.height, self.width, self.channels)

    @torch.inference_mode()
    def posterior(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mu and logvar of images (N, H, W, C)."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        mu, logvar = self.model.encode(self.model.normalise(self.model.to_levels(pixels)))
        return mu, logvar

    def rows(self, images: np.ndarray) -> Rows:
        """Return mu and logvar image by image, as lists."""
        mu, logvar = self.posterior(images)
        return [{"mu": m, "logvar": v} for m, v in zip(mu.tolist(), logvar.tolist(), strict=True)]
