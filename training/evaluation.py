"""Figures of a trained model on the test set, and its aggregated posterior over the training set."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from models.bundle import Estimate, Metrics, Quantiles
from models.noise import normal_noise
from models.objectives import bits_per_dim, bounds
from models.priors import ACTIVE_VARIANCE, AggregatedPosterior
from models.vae import VAE
from training.config import EvaluationConfig, RunConfig
from training.datasets import Dataset
from training.errors import RunError
from training.inputs import batches, latent_noise, levels_on_device

BATCH = 250
NLL_BATCH = 10
MAX_DECODED = 500  # latents at once
MIXTURE_IMAGES = 20_000
PERCENTS = (0, 1, 2, *range(5, 96, 5), 98, 99, 100)  # closer where images become unusual
QUANTILE_DECIMALS = 4  # of bits/dim
MOST_REPRODUCED = 1e-5  # relative: by how much one model's figures may differ between machines


@torch.inference_mode()
def evaluate(model: VAE, dataset: Dataset, config: RunConfig) -> Metrics:
    """Return the metrics of a model on the whole test set (the nll on its first `nll_images` images).

    Raises RunError for weights or figures that are not finite.
    """
    _require_finite("averaged weights", model.state_dict())
    levels = levels_on_device(model, dataset.test)
    settings = config.evaluation
    parts = _elbo_parts(model, levels, settings.seed)
    nll = _nll(model, levels[: settings.nll_images], settings)
    _require_finite("figures of test images", {**parts, "nll": nll})
    bits = float(bits_per_dim(torch.ones((), dtype=torch.float64), dataset.shape))
    test_mu = posterior_means(model, levels)
    return Metrics(
        n=len(levels),
        seed=settings.seed,
        elbo=_estimate(parts["elbo"]),
        kl=_estimate(parts["kl"]),
        distortion=_estimate(parts["distortion"]),
        bits_per_dim=_estimate(-parts["elbo"] * bits),
        bits_per_dim_quantiles=_quantiles(-parts["elbo"] * bits),
        nll=_estimate(nll),
        nll_bits_per_dim=_estimate(nll * bits),
        nll_samples=settings.nll_samples,
        nll_n=len(nll),
        active_dims=int((test_mu.var(axis=0) > ACTIVE_VARIANCE).sum()),
        linear_accuracy=_linear_accuracy(model, test_mu, dataset),
    )


@torch.inference_mode()
def with_quantiles(metrics: Metrics, model: VAE, dataset: Dataset) -> Metrics:
    """Return the metrics of a model, evaluated before, with the quantiles of its −ELBO on the same test set.

    Raises RunError where the mean over the test set is not the one in the metrics.
    """
    elbo = _elbo_parts(model, levels_on_device(model, dataset.test), metrics.seed)["elbo"]
    if len(elbo) != metrics.n or not math.isclose(elbo.mean(), metrics.elbo.mean, rel_tol=MOST_REPRODUCED):
        found = (
            f"{metrics.elbo.mean:.4f} over {metrics.n} images; here it is {elbo.mean():.4f} over {len(elbo)}"
        )
        raise RunError(f"the bundle's mean ELBO is {found}")
    bits = float(bits_per_dim(torch.ones((), dtype=torch.float64), dataset.shape))
    return metrics.model_copy(update={"bits_per_dim_quantiles": _quantiles(-elbo * bits)})


def posterior_means(model: VAE, levels: Tensor) -> np.ndarray:
    """Return mu of every image, float32 (N, D)."""
    return posteriors(model, levels)[0]


@torch.inference_mode()
def posteriors(model: VAE, levels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return mu and logvar of every image, each float32 (N, D)."""
    encoded = [model.encode(model.normalise(batch)) for batch in levels.split(BATCH)]
    mu, logvar = (torch.cat(parts).cpu().numpy() for parts in zip(*encoded, strict=True))
    return mu, logvar


def fit_aggregated_posterior(model: VAE, dataset: Dataset, config: RunConfig) -> AggregatedPosterior:
    """Fit a Gaussian mixture with full covariances to samples of q(z given x) over training images.

    Its components are at most one for every ten images, so that small data sets have a mixture too. Raises
    RunError where posteriors are not finite, or too far apart.
    """
    mu, logvar = posteriors(model, levels_on_device(model, dataset.train))
    _require_finite("posteriors of training images", {"mu": mu, "logvar": logvar})
    seed = config.evaluation.seed
    chosen = np.random.default_rng(seed).permutation(len(mu))[:MIXTURE_IMAGES]
    z = mu[chosen] + np.exp(logvar[chosen] / 2) * normal_noise(seed, 0, len(chosen), mu.shape[1])
    components = max(1, min(config.evaluation.mixture_components, len(z) // 10))
    mixture = GaussianMixture(components, reg_covar=1e-4, random_state=seed)
    try:
        mixture.fit(z.astype(np.float64))
    except ValueError as error:
        raise RunError(f"no mixture fits the posteriors of training images: {error}") from error
    return AggregatedPosterior(
        mean=mu.mean(axis=0),
        std=mu.std(axis=0),
        active=mu.var(axis=0) > ACTIVE_VARIANCE,
        weights=mixture.weights_.astype(np.float32),
        means=mixture.means_.astype(np.float32),
        cholesky=np.linalg.cholesky(mixture.covariances_).astype(np.float32),
    )


def _require_finite(what: str, values: Mapping[str, np.ndarray | Tensor]) -> None:
    faulty = [name for name, value in values.items() if not torch.as_tensor(value).isfinite().all()]
    if faulty:
        raise RunError(f"the run has diverged: {what} are NaN or infinite, first in {faulty[0]}")


def _elbo_parts(model: VAE, levels: Tensor, seed: int) -> dict[str, np.ndarray]:
    totals: list[dict[str, Tensor]] = []
    for start, batch in batches(levels, BATCH):
        totals.append(bounds(model, batch, latent_noise(model, seed, start, len(batch))))
    return {name: torch.cat([part[name] for part in totals]).double().cpu().numpy() for name in totals[0]}


def _nll(model: VAE, levels: Tensor, settings: EvaluationConfig) -> np.ndarray:
    found = []
    with tqdm(desc="nll", total=len(levels), unit="image", disable=None) as bar:
        for start, batch in batches(levels, NLL_BATCH):
            eps = latent_noise(model, settings.seed + 1, start, len(batch), settings.nll_samples)
            found.append(bounds(model, batch, eps, MAX_DECODED)["nll"])
            bar.update(len(batch))
    return torch.cat(found).double().cpu().numpy()


def _linear_accuracy(model: VAE, test_mu: np.ndarray, dataset: Dataset) -> float | None:
    if dataset.train_labels is None or dataset.test_labels is None:
        return None
    if len(np.unique(dataset.train_labels)) < 2:  # a folder with one class has nothing to tell apart
        return None
    train_mu = posterior_means(model, levels_on_device(model, dataset.train))
    _require_finite("posteriors of training images", {"mu": train_mu})
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(train_mu, dataset.train_labels)
    return float(classifier.score(test_mu, dataset.test_labels))


def _estimate(values: np.ndarray) -> Estimate:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(mean=float(values.mean()), standard_error=float(error))


def _quantiles(values: np.ndarray) -> Quantiles:
    found = np.percentile(values, PERCENTS).round(QUANTILE_DECIMALS)
    return Quantiles(percents=PERCENTS, values=tuple(found.tolist()))
