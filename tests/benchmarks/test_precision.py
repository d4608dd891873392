"""What the precision benchmark says of outputs whose differences are known, and of a bundle."""

from __future__ import annotations

import numpy as np

from benchmarks.precision import differences, measure, table
from benchmarks.serving.golden import golden_images
from models.bundle import bundle_path, load_bundle


def outputs(mu: float, pixel: int, elbo: float) -> dict[str, np.ndarray]:
    decoded = np.zeros((2, 2, 2, 1), np.uint8)
    decoded[0, 0, 0, 0] = pixel
    return {
        "mu": np.array([[mu, 0.0]], np.float32),
        "std": np.array([[0.5, 1.0]], np.float32),
        "elbo": np.array([elbo, -10.0], np.float32),
        "decoded": decoded,
    }


def test_differences_are_in_the_units_that_they_are_called() -> None:
    found = differences(outputs(1.25, 3, -10.5), outputs(1.0, 5, -10.0))
    assert found == {
        "mu, mean difference in posterior std": 0.25,
        "mu, largest difference in posterior std": 0.5,
        "decoded, share of pixels that differ": 1 / 8,
        "decoded, largest difference of 255": 2,
        "elbo, mean difference in nats": -0.25,
        "elbo, largest difference in nats": 0.5,
    }


def test_a_precision_is_a_row() -> None:
    assert table([{"bundle": "mnist", "device": "cpu", "mu": 0.12345}]).splitlines() == [
        "| bundle | mu |",
        "| --- | ---: |",
        "| mnist | 0.123 |",
    ]


def test_bfloat16_is_near_on_a_shipped_bundle() -> None:
    bundle = load_bundle(bundle_path("mnist"))
    row = measure(bundle, golden_images(bundle).transpose(0, 3, 1, 2), rounds=1)[-1]
    assert row["precision"] == "bf16"
    assert 0 < row["mu, mean difference in posterior std"] < 0.1
    assert row["decoded, largest difference of 255"] < 32
    assert row["encode, times as fast"] > 0
