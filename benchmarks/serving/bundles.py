"""The images of the benchmark, and what torch makes of them: every bundle carries both."""

from __future__ import annotations

import numpy as np
import safetensors.numpy
import torch

from benchmarks.serving.workloads import Posterior
from models.bundle import Bundle


def golden_images(bundle: Bundle) -> np.ndarray:
    """Return a bundle's golden images, uint8 (N, H, W, C): test images of its data set."""
    levels = safetensors.numpy.load_file(bundle.path / "golden.safetensors")["levels"]
    pixels = levels * np.uint8(255) if bundle.config.input.levels == 2 else levels
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


@torch.inference_mode()
def direct_posterior(bundle: Bundle, images: np.ndarray) -> Posterior:
    """Encode images (N, H, W, C) with the bundle's model, without any server."""
    model = bundle.model
    levels = model.to_levels(torch.from_numpy(images).permute(0, 3, 1, 2))
    mu, logvar = model.encode(model.normalise(levels))
    return {"mu": mu.numpy(), "logvar": logvar.numpy()}
