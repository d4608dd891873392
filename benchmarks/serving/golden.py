"""The images that benchmarks send; apart, so that the bare torch loop loads nothing of the service."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from models.bundle import Bundle


def golden_images(bundle: Bundle) -> np.ndarray:
    """Return a bundle's golden images, uint8 (N, H, W, C): test images of its data set."""
    levels = safetensors.numpy.load_file(bundle.path / "golden.safetensors")["levels"]
    pixels = levels * np.uint8(255) if bundle.config.input.levels == 2 else levels
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
