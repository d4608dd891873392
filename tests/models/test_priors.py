import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from models.priors import AggregatedPosterior, Prior, sample_latents


@pytest.fixture
def two_components() -> AggregatedPosterior:
    return AggregatedPosterior(
        mean=np.zeros(2, np.float32),
        std=np.ones(2, np.float32),
        active=np.array([True, True]),
        weights=np.array([0.25, 0.75], np.float32),
        means=np.array([[-10, 0], [10, 0]], np.float32),
        cholesky=np.array([np.eye(2), [[1, 0], [2, 1]]], np.float32),
    )


def draw(
    posterior: AggregatedPosterior, prior: Prior, offset: int, count: int, temperature: float = 1.0
) -> np.ndarray:
    return sample_latents(posterior, prior, seed=5, offset=offset, count=count, temperature=temperature)


@pytest.mark.parametrize("prior", ["standard", "aggregated"])
def test_a_page_of_samples_equals_that_part_of_the_whole(
    two_components: AggregatedPosterior, prior: Prior
) -> None:
    whole = draw(two_components, prior, 0, 300)
    assert whole.dtype == np.float32
    assert np.array_equal(draw(two_components, prior, 100, 37), whole[100:137])
    assert np.array_equal(draw(two_components, prior, 299, 1), whole[299:])


def test_the_mixture_has_its_weights_means_and_covariances(two_components: AggregatedPosterior) -> None:
    z = draw(two_components, "aggregated", 0, 40_000)
    second = z[z[:, 0] > 0]
    assert abs(len(second) / len(z) - 0.75) < 4 * np.sqrt(0.25 * 0.75 / len(z))
    assert np.abs(second.mean(axis=0) - [10, 0]).max() < 0.06
    assert np.abs(np.cov(second.T) - [[1, 2], [2, 5]]).max() < 0.15


@pytest.mark.parametrize(
    ("weights", "uniform", "mean"),
    [([0.25, 0.75], 0.25, -10), ([0.25, 0.75], 1.0, 10), ([1.0, 0.0], 1.0, -10), ([0.0, 1.0], 1e-16, 10)],
)
def test_the_ends_of_the_uniforms_choose_components_that_have_weight(
    two_components: AggregatedPosterior,
    monkeypatch: pytest.MonkeyPatch,
    weights: list[float],
    uniform: float,
    mean: float,
) -> None:
    monkeypatch.setattr("models.priors.component_noise", lambda seed, offset, count: np.full(count, uniform))
    weighted = replace(two_components, weights=np.array(weights, np.float32))
    assert draw(weighted, "aggregated", 0, 1, temperature=0.0)[0, 0] == mean


def test_many_latents_do_not_gather_a_matrix_an_item() -> None:
    d, count = 256, 256
    wide = AggregatedPosterior(
        mean=np.zeros(d, np.float32),
        std=np.ones(d, np.float32),
        active=np.ones(d, bool),
        weights=np.ones(1, np.float32),
        means=np.zeros((1, d), np.float32),
        cholesky=np.eye(d, dtype=np.float32)[None],
    )
    tracemalloc.start()
    try:
        z = draw(wide, "aggregated", 0, count)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(z, draw(wide, "standard", 0, count))  # L is the identity
    assert peak_bytes < 64 * z.nbytes  # the gathered matrices together would be 256 times z


@pytest.mark.parametrize("prior", ["standard", "aggregated"])
def test_temperature_scales_the_noise(two_components: AggregatedPosterior, prior: Prior) -> None:
    centre, warm, hot = (draw(two_components, prior, 0, 20, temperature) for temperature in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(hot - centre, 2 * (warm - centre), rtol=1e-5, atol=1e-5)


def test_temperature_zero_gives_the_means(two_components: AggregatedPosterior) -> None:
    assert not draw(two_components, "standard", 0, 5, 0.0).any()
    assert set(draw(two_components, "aggregated", 0, 50, 0.0)[:, 0].tolist()) == {-10.0, 10.0}
