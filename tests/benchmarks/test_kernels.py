"""What the benchmark of other kernels says of differences that are known, and of a bundle in 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import config

from benchmarks.kernels import differences, measure, quantized
from benchmarks.serving.golden import golden_images
from models.bundle import bundle_path, load_bundle


def test_differences_are_in_the_units_that_they_are_called() -> None:
    logvar = np.log(np.float32([[0.25, 1.0]]))
    found = differences((np.float32([[1.25, 0.0]]), logvar + 1), (np.float32([[1.0, 0.0]]), logvar))
    assert found == {
        "mu, largest difference": 0.25,
        "mu, mean difference in posterior std": 0.25,
        "mu, largest difference in posterior std": 0.5,
    }


def test_eight_bits_are_near_on_a_shipped_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.quantized, "engine", torch.backends.quantized.engine)
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # quantizing traces with what is no tensor
    bundle = load_bundle(bundle_path("mnist"))
    images = torch.from_numpy(golden_images(bundle))
    images = images[torch.arange(64) % len(images)]
    found = measure(bundle.model, quantized(bundle.model, images), images, rounds=1)
    assert found["mu, largest difference"] > 1e-5
    assert found["mu, mean difference in posterior std"] < 0.5
    assert found["batches of 32, times as fast"] > 0
