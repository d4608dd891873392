"""Figures of a model on test data, against hand-made models whose figures are known."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.bundle import Metrics
from models.objectives import bounds
from models.vae import VAE
from tests.training.conftest import tiny_config, tiny_dataset, tiny_images, tiny_trainer
from training import evaluation
from training.datasets import Dataset
from training.errors import RunError
from training.evaluation import (
    evaluate,
    fit_aggregated_posterior,
    posterior_means,
    posteriors,
    with_quantiles,
)
from training.inputs import latent_noise

BITS = 1 / (64 * math.log(2))  # a nat of an 8×8 image in bits/dim


class Posterior(nn.Module):
    """An encoder that gives mu and logvar by a formula of x, float32 (B, 1, 8, 8)."""

    def __init__(self, mu: Callable[[Tensor], Tensor], logvar: float) -> None:
        super().__init__()
        self.mu, self.logvar = mu, logvar

    def forward(self, x: Tensor) -> Tensor:
        mu = self.mu(x)
        return torch.cat([mu, torch.full_like(mu, self.logvar)], dim=1)


def model_with(mu: Callable[[Tensor], Tensor], logvar: float = -2.0) -> VAE:
    """Return a tiny VAE with this posterior, its decoder as the seed made it."""
    model = tiny_trainer().model
    assert isinstance(model, VAE)
    model.encoder = Posterior(mu, logvar)  # type: ignore[assignment]
    return model


def left_or_top(x: Tensor) -> Tensor:
    """Return 1 for tiny images bright on the left, −1 for those bright at the top."""
    return torch.sign(x[:, 0, 7, 0] - x[:, 0, 0, 7])


def two_clusters(x: Tensor) -> Tensor:
    return torch.stack([left_or_top(x) * centre for centre in (3.0, -2.0, 0.0, 0.0)], dim=1)


@pytest.fixture
def model() -> VAE:
    model = tiny_trainer().model
    assert isinstance(model, VAE)
    return model


@pytest.fixture
def metrics(model: VAE) -> Metrics:
    return evaluate(model, tiny_dataset(), tiny_config())


# ---- the bound


def test_the_elbo_is_minus_the_sum_of_kl_and_distortion(metrics: Metrics) -> None:
    assert metrics.elbo.mean == pytest.approx(-(metrics.kl.mean + metrics.distortion.mean), rel=1e-6)
    assert metrics.kl.mean > 0
    assert metrics.distortion.mean > 0


def test_the_kl_of_a_known_posterior_is_its_closed_form() -> None:
    known = model_with(lambda x: torch.full((len(x), 4), 2.0), logvar=-1.0)
    metrics = evaluate(known, tiny_dataset(), tiny_config())
    expected = 4 * 0.5 * (2.0**2 + math.exp(-1) - 1 + 1)
    assert metrics.kl.mean == pytest.approx(expected, rel=1e-6)
    assert metrics.kl.standard_error == pytest.approx(0, abs=1e-6)


def test_a_decoder_that_ignores_z_has_one_likelihood_by_every_estimate(model: VAE) -> None:
    with torch.no_grad():
        model.decoder[0].weight.zero_()
    ignored = model_with(lambda x: torch.zeros((len(x), 4)), logvar=0.0)
    ignored.decoder = model.decoder
    metrics = evaluate(ignored, tiny_dataset(), tiny_config(evaluation={"nll_images": 12}))
    assert metrics.kl.mean == 0
    assert metrics.nll.mean == pytest.approx(metrics.distortion.mean, rel=1e-6)
    assert -metrics.elbo.mean == pytest.approx(metrics.distortion.mean, rel=1e-6)


def test_the_nll_is_below_minus_the_elbo() -> None:
    loose = model_with(two_clusters, logvar=1.0)
    with torch.no_grad():
        loose.decoder[0].weight.mul_(5)
    settings = {"nll_samples": 100, "nll_images": 12}
    metrics = evaluate(loose, tiny_dataset(), tiny_config(evaluation=settings))
    error = math.hypot(metrics.nll.standard_error, metrics.elbo.standard_error)
    assert metrics.nll.mean < -metrics.elbo.mean - 2 * error


def test_more_samples_tighten_the_bound() -> None:
    loose = model_with(two_clusters, logvar=1.0)
    nll = [
        evaluate(loose, tiny_dataset(), tiny_config(evaluation={"nll_samples": samples})).nll.mean
        for samples in (1, 8, 120)
    ]
    assert nll == sorted(nll, reverse=True)
    assert len(set(nll)) == 3


def test_bits_per_dim_are_nats_over_the_dimensions_and_log_2(metrics: Metrics) -> None:
    assert metrics.bits_per_dim.mean == pytest.approx(-metrics.elbo.mean * BITS, rel=1e-9)
    assert metrics.bits_per_dim.standard_error == pytest.approx(metrics.elbo.standard_error * BITS, rel=1e-9)
    assert metrics.nll_bits_per_dim.mean == pytest.approx(metrics.nll.mean * BITS, rel=1e-9)


def test_quantiles_are_those_of_each_images_bits_per_dim(model: VAE, metrics: Metrics) -> None:
    levels = torch.from_numpy(tiny_dataset().test)
    elbo = bounds(model, levels, latent_noise(model, metrics.seed, 0, 12))["elbo"].detach().numpy()
    quantiles = metrics.bits_per_dim_quantiles
    assert quantiles is not None
    found = dict(zip(quantiles.percents, quantiles.values, strict=True))
    bits = np.sort(-elbo * BITS)
    assert found[0] == pytest.approx(bits[0], abs=1e-4)
    assert found[50] == pytest.approx((bits[5] + bits[6]) / 2, abs=1e-4)
    assert found[100] == pytest.approx(bits[-1], abs=1e-4)


def test_quantiles_are_added_to_metrics_that_had_none(model: VAE, metrics: Metrics) -> None:
    old = metrics.model_copy(update={"bits_per_dim_quantiles": None})
    assert with_quantiles(old, model, tiny_dataset()) == metrics


@pytest.mark.parametrize("test", [11, 13])
def test_quantiles_of_other_images_are_refused(model: VAE, metrics: Metrics, test: int) -> None:
    with pytest.raises(RunError, match=rf"mean ELBO is .* over 12 images; here it is .* over {test}"):
        with_quantiles(metrics, model, tiny_dataset(test=test))


def test_quantiles_of_another_model_are_refused(model: VAE, metrics: Metrics) -> None:
    with pytest.raises(RunError, match="the bundle's mean ELBO is "):
        with_quantiles(metrics, model_with(two_clusters), tiny_dataset())


def test_standard_errors_are_those_of_the_mean_over_images(model: VAE) -> None:
    dataset = tiny_dataset()
    metrics = evaluate(model, dataset, tiny_config())
    mu, logvar = (array.astype(np.float64) for array in posteriors(model, torch.from_numpy(dataset.test)))
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum(axis=1)
    assert metrics.kl.mean == pytest.approx(kl.mean(), rel=1e-5)
    assert metrics.kl.standard_error == pytest.approx(kl.std(ddof=1) / math.sqrt(12), rel=1e-4)


def test_one_image_has_no_standard_error(model: VAE) -> None:
    metrics = evaluate(model, tiny_dataset(test=1), tiny_config())
    assert (metrics.n, metrics.nll_n) == (1, 1)
    assert (metrics.elbo.standard_error, metrics.nll.standard_error) == (0, 0)


def test_counts_and_seed_are_told(model: VAE) -> None:
    settings = {"seed": 7, "nll_samples": 3, "nll_images": 5}
    metrics = evaluate(model, tiny_dataset(), tiny_config(evaluation=settings))
    assert (metrics.n, metrics.seed, metrics.nll_n, metrics.nll_samples) == (12, 7, 5, 3)


def test_the_same_seed_gives_the_same_metrics_and_another_does_not(model: VAE) -> None:
    dataset = tiny_dataset()
    one, same, other = (
        evaluate(model, dataset, tiny_config(evaluation={"seed": seed})) for seed in (3, 3, 4)
    )
    assert one == same
    assert one.elbo != other.elbo
    assert one.nll != other.nll


def test_the_noise_of_an_image_does_not_depend_on_the_batches(
    model: VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(model, tiny_dataset(), tiny_config())
    for name, size in (("BATCH", 5), ("NLL_BATCH", 3), ("MAX_DECODED", 6)):
        monkeypatch.setattr(evaluation, name, size)
    metrics = evaluate(model, tiny_dataset(), tiny_config())
    for part in ("elbo", "kl", "distortion", "nll"):
        assert getattr(metrics, part).mean == pytest.approx(getattr(expected, part).mean, rel=1e-5), part


# ---- latents worth serving


def test_active_dims_are_those_whose_mu_varies_by_more_than_a_hundredth() -> None:
    # ±s in equal shares has variance s².
    spreads = (1.0, 0.101, 0.099, 0.0)
    known = model_with(lambda x: torch.stack([left_or_top(x) * spread for spread in spreads], dim=1))
    assert evaluate(known, tiny_dataset(), tiny_config()).active_dims == 2


def test_posterior_means_are_mu_of_every_image_in_order() -> None:
    known = model_with(two_clusters)
    mu = posterior_means(known, torch.from_numpy(tiny_images(4)[0]))
    np.testing.assert_array_equal(mu, [[3, -2, 0, 0], [-3, 2, 0, 0]] * 2)
    assert mu.dtype == np.float32


def test_a_linear_classifier_tells_apart_what_mu_tells_apart() -> None:
    assert evaluate(model_with(two_clusters), tiny_dataset(), tiny_config()).linear_accuracy == 1.0


def test_a_linear_classifier_is_scored_on_the_test_labels() -> None:
    dataset = tiny_dataset()
    assert dataset.test_labels is not None
    wrong = dataset.test_labels.copy()
    wrong[:3] = 1 - wrong[:3]
    metrics = evaluate(model_with(two_clusters), replace(dataset, test_labels=wrong), tiny_config())
    assert metrics.linear_accuracy == 0.75


def test_a_linear_classifier_is_fitted_on_the_training_labels() -> None:
    dataset = tiny_dataset()
    assert dataset.train_labels is not None
    swapped = replace(dataset, train_labels=1 - dataset.train_labels)
    assert evaluate(model_with(two_clusters), swapped, tiny_config()).linear_accuracy == 0.0


@pytest.mark.parametrize(
    "labels",
    [
        {"train_labels": None},
        {"test_labels": None},
        {"train_labels": np.zeros(24, np.int64)},
    ],
    ids=["none in training", "none in test", "one class"],
)
def test_without_labels_to_tell_apart_there_is_no_linear_accuracy(
    model: VAE, labels: dict[str, np.ndarray | None]
) -> None:
    dataset: Dataset = replace(tiny_dataset(), **labels)  # type: ignore[arg-type]
    assert evaluate(model, dataset, tiny_config()).linear_accuracy is None


# ---- the aggregated posterior


def test_the_mixture_finds_two_planted_clusters() -> None:
    known = model_with(two_clusters, logvar=math.log(0.04))
    latents = fit_aggregated_posterior(known, tiny_dataset(train=2000), tiny_config())
    order = np.argsort(latents.means[:, 0])
    # A thousand samples of deviation 0.2 a cluster: standard errors of 0.0063 (mean) and 0.0045 (deviation).
    np.testing.assert_allclose(latents.weights, [0.5, 0.5], atol=1e-3)
    np.testing.assert_allclose(latents.means[order], [[-3, 2, 0, 0], [3, -2, 0, 0]], atol=5 * 0.0063)
    covariances = latents.cholesky @ latents.cholesky.transpose(0, 2, 1)
    deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    np.testing.assert_allclose(deviations, np.full((2, 4), 0.2), atol=5 * 0.0045)


def test_its_moments_are_those_of_mu_over_training_images() -> None:
    latents = fit_aggregated_posterior(model_with(two_clusters), tiny_dataset(), tiny_config())
    np.testing.assert_allclose(latents.mean, np.zeros(4), atol=1e-6)
    np.testing.assert_allclose(latents.std, [3, 2, 0, 0])
    assert latents.active.tolist() == [True, True, False, False]


def test_its_arrays_are_float32_and_its_factors_lower_triangular(model: VAE) -> None:
    latents = fit_aggregated_posterior(model, tiny_dataset(), tiny_config())
    kinds = {name: str(array.dtype) for name, array in latents.arrays().items()}
    assert kinds.pop("active") == "bool"
    assert set(kinds.values()) == {"float32"}
    np.testing.assert_array_equal(latents.cholesky, np.tril(latents.cholesky))


@pytest.mark.parametrize(("images", "components"), [(9, 1), (39, 3), (400, 8)])
def test_it_has_a_component_for_ten_images_up_to_the_configs_number(
    model: VAE, images: int, components: int
) -> None:
    config = tiny_config(evaluation={"mixture_components": 8})
    latents = fit_aggregated_posterior(model, tiny_dataset(train=images), config)
    assert len(latents.weights) == components


def test_it_is_fitted_to_a_bounded_part_of_the_images(monkeypatch: pytest.MonkeyPatch, model: VAE) -> None:
    monkeypatch.setattr(evaluation, "MIXTURE_IMAGES", 20)
    config = tiny_config(evaluation={"mixture_components": 8})
    latents = fit_aggregated_posterior(model, tiny_dataset(train=400), config)
    assert len(latents.weights) == 2


def test_posteriors_that_are_not_finite_have_no_mixture() -> None:
    diverged = model_with(lambda x: torch.full((len(x), 4), torch.inf))
    with pytest.raises(RunError, match="posteriors of training images are NaN or infinite, first in mu"):
        fit_aggregated_posterior(diverged, tiny_dataset(), tiny_config())


def test_posteriors_that_are_not_finite_have_no_linear_accuracy() -> None:
    data = tiny_dataset()
    data.train[0] = 255

    def mu(x: Tensor) -> Tensor:
        is_plain = x.flatten(1).std(dim=1) == 0
        return left_or_top(x).masked_fill(is_plain, torch.inf).unsqueeze(1).expand(-1, 4)

    with pytest.raises(RunError, match="posteriors of training images are NaN or infinite, first in mu"):
        evaluate(model_with(mu), data, tiny_config())


def test_posteriors_too_far_apart_have_no_mixture() -> None:
    far = model_with(lambda x: 3e19 * torch.arange(1, len(x) + 1).unsqueeze(1).expand(-1, 4))
    with pytest.raises(RunError, match="no mixture fits the posteriors of training images: "):
        fit_aggregated_posterior(far, tiny_dataset(), tiny_config())


def test_figures_that_are_not_finite_are_refused() -> None:
    huge = model_with(lambda x: torch.full((len(x), 4), 1e30))
    with pytest.raises(RunError, match="the run has diverged: figures of test images are NaN or infinite"):
        evaluate(huge, tiny_dataset(), tiny_config())


def test_the_same_seed_gives_the_same_mixture(model: VAE) -> None:
    first, second = (fit_aggregated_posterior(model, tiny_dataset(), tiny_config()) for _ in range(2))
    for name, array in first.arrays().items():
        np.testing.assert_array_equal(array, second.arrays()[name], err_msg=name)
