"""The images of the benchmark, and what torch makes of them without any server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from app.operations import decode
from benchmarks.serving.golden import golden_images
from models.bundle import Bundle
from models.priors import sample_latents


@dataclass(frozen=True)
class Material:
    """Golden images (N, H, W, C), their mu and logvar (N, D), the images of those mu, and some samples."""

    images: np.ndarray
    posterior: Mapping[str, np.ndarray]
    decoded: np.ndarray
    samples: np.ndarray


@torch.inference_mode()
def direct_posterior(bundle: Bundle, images: np.ndarray) -> Mapping[str, np.ndarray]:
    """Encode images (N, H, W, C) with the bundle's model."""
    model = bundle.model
    levels = model.to_levels(torch.from_numpy(images).permute(0, 3, 1, 2))
    mu, logvar = model.encode(model.normalise(levels))
    return {"mu": mu.numpy(), "logvar": logvar.numpy()}


@torch.inference_mode()
def direct_images(bundle: Bundle, z: np.ndarray) -> np.ndarray:
    """Decode latents (N, D) with the bundle's model, to uint8 (N, H, W, C)."""
    images: np.ndarray = decode(bundle.model, torch.from_numpy(z))[0].numpy()
    return images


def material_of(bundle: Bundle, samples: int, seed: int) -> Material:
    """Compute what the workloads' answers are compared with."""
    images = golden_images(bundle)
    posterior = direct_posterior(bundle, images)
    z = sample_latents(bundle.latents, "aggregated", seed=seed, offset=0, count=samples, temperature=1.0)
    return Material(images, posterior, direct_images(bundle, posterior["mu"]), direct_images(bundle, z))
