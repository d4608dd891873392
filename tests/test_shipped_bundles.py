"""The bundles in the repository: they load, and their figures are what the files say."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from models.bundle import SHIPPED, load_bundle
from models.objectives import bits_per_dim, bounds

SHIPPED_IDS = ("fashion-mnist", "mnist")


@pytest.mark.parametrize("id", SHIPPED_IDS)
def test_a_shipped_bundle_is_whole(id: str) -> None:
    bundle = load_bundle(SHIPPED / id)
    assert bundle.metrics.n == 10_000
    assert bundle.metrics.nll_samples == 500
    assert bundle.metrics.nll_n >= 1000
    assert bundle.metrics.active_dims >= 16
    assert {path.name for path in (SHIPPED / id / "plots").glob("*.png")} == {
        "curves.png",
        "latent-means.png",
        "reconstructions.png",
        "samples-aggregated.png",
        "samples-standard.png",
        "traversals.png",
    }


@pytest.mark.parametrize("id", SHIPPED_IDS)
def test_a_shipped_bundle_scores_its_test_images_as_its_metrics_say(id: str) -> None:
    bundle = load_bundle(SHIPPED / id)
    levels = torch.from_numpy(load_file(SHIPPED / id / "golden.safetensors")["levels"])
    eps = torch.randn(20, len(levels), bundle.config.latent_dim)
    with torch.inference_mode():
        elbo = bounds(bundle.model, levels, eps)["elbo"]
    bits = -bits_per_dim(elbo, bundle.config.input.shape)
    error = 4 * bundle.metrics.bits_per_dim.standard_error * np.sqrt(bundle.metrics.n / len(levels))
    assert abs(bits.mean().item() - bundle.metrics.bits_per_dim.mean) < error
