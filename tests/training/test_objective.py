"""The loss minimised, against its definition and against the other way to estimate it.

Where two estimators must agree in expectation, the tolerance is five standard errors of their difference,
and the standard error itself is checked to be small against what is measured.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import LikelihoodConfig
from models.noise import normal_noise
from models.objectives import gaussian_kl, gaussian_kl_per_dim, log_px_z, monte_carlo_kl
from models.vae import VAE, Autoencoder
from tests.training.conftest import tiny_images
from training.config import ModelConfig, ObjectiveConfig
from training.objective import Objective

LATENT = 2
LAST_BIAS = "encoder.3.bias"  # its gradient is that of mu and logvar, summed over the batch
NETWORK = ModelConfig(
    family="fully-connected",
    latent_dim=LATENT,
    channels=(4,),
    blocks=(),
    likelihood=LikelihoodConfig(name="bernoulli"),
).network((1, 8, 8))


@pytest.fixture
def model() -> VAE:
    """Return a network whose posteriors are far from the prior and whose decoder listens to z."""
    model = VAE(NETWORK)
    with torch.no_grad():
        model.encoder[-1].weight.mul_(4)
        model.decoder[0].weight.mul_(3)
    return model


@pytest.fixture
def levels() -> Tensor:
    pixels, _ = tiny_images(2)
    return (torch.from_numpy(pixels) >= 128).to(torch.uint8)


def noise(samples: int, batch: int = 2, seed: int = 0) -> Tensor:
    drawn = torch.from_numpy(normal_noise(seed, 0, batch, samples * LATENT))
    return drawn.unflatten(1, (samples, LATENT)).transpose(0, 1)


def gradients(
    model: VAE, levels: Tensor, eps: Tensor, beta: float = 1.0, **objective: Any
) -> dict[str, Tensor]:
    model.zero_grad()
    Objective(model, ObjectiveConfig(**objective))(levels, eps, beta).loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


# ---- values


def test_the_loss_is_the_mean_distortion_and_beta_times_the_mean_kl(model: VAE, levels: Tensor) -> None:
    eps = noise(3)
    mu, logvar = model.encode(model.normalise(levels))
    distortion = -log_px_z(model, levels, model.reparameterise(mu, logvar, eps)).mean()
    kl = gaussian_kl(mu, logvar).mean()
    loss = Objective(model, ObjectiveConfig(samples=3))(levels, eps, beta=0.25)
    torch.testing.assert_close((loss.distortion, loss.kl), (distortion, kl))
    torch.testing.assert_close(loss.loss, distortion + 0.25 * kl)


def test_the_analytic_and_the_monte_carlo_kl_agree_in_expectation(model: VAE, levels: Tensor) -> None:
    eps = noise(20_000)
    analytic = Objective(model, ObjectiveConfig())(levels, eps, beta=2.0)
    sampled = Objective(model, ObjectiveConfig(kl="monte-carlo"))(levels, eps, beta=2.0)
    with torch.no_grad():
        mu, logvar = model.encode(model.normalise(levels))
    values = monte_carlo_kl(model.reparameterise(mu, logvar, eps), mu, logvar)
    standard_error = float(values.mean(dim=1).std() / len(eps) ** 0.5)
    kl = float(analytic.kl.detach())
    assert standard_error < 0.02 * kl
    assert float(sampled.kl.detach()) == pytest.approx(kl, abs=5 * standard_error)
    assert float(sampled.loss.detach()) == pytest.approx(
        float(analytic.loss.detach()), abs=10 * standard_error
    )
    torch.testing.assert_close(sampled.distortion, analytic.distortion)


def test_free_bits_raise_each_latents_kl_to_their_level(model: VAE, levels: Tensor) -> None:
    with torch.no_grad():
        per_dim = gaussian_kl_per_dim(*model.encode(model.normalise(levels))).mean(dim=0)
    lower, higher = sorted(per_dim.tolist())
    between = (lower + higher) / 2
    loss = Objective(model, ObjectiveConfig(free_bits=between))(levels, noise(1), beta=0.5)
    torch.testing.assert_close(loss.loss, loss.distortion + 0.5 * (between + higher))
    torch.testing.assert_close(loss.kl, per_dim.sum())


def test_a_latent_within_its_free_bits_feels_no_pressure_from_the_kl(model: VAE, levels: Tensor) -> None:
    eps = noise(1)
    free = gradients(model, levels, eps, free_bits=1000.0)
    without_kl = gradients(model, levels, eps, beta=0.0)
    torch.testing.assert_close(free, without_kl)


def test_an_autoencoders_loss_is_its_distortion_whatever_beta_and_noise_are(levels: Tensor) -> None:
    model = Autoencoder(NETWORK)
    objective = Objective(model, ObjectiveConfig())
    first, second = objective(levels, noise(1), beta=1.0), objective(levels, noise(1, seed=5), beta=7.0)
    code = model.code(model.normalise(levels))
    distortion = -model.likelihood.log_prob(levels, model.decode(code)).mean()
    for loss in (first, second):
        torch.testing.assert_close((loss.loss, loss.distortion), (distortion, distortion))
        assert loss.kl == 0


# ---- the score-function estimator


def test_the_score_function_loss_has_the_value_of_the_reparameterised_one(model: VAE, levels: Tensor) -> None:
    eps = noise(4)
    pathwise = Objective(model, ObjectiveConfig(samples=4))(levels, eps, beta=0.5)
    score = Objective(model, ObjectiveConfig(samples=4, estimator="score-function"))(levels, eps, beta=0.5)
    for name in ("loss", "distortion", "kl"):
        torch.testing.assert_close(getattr(score, name), getattr(pathwise, name))


def test_the_score_function_gradient_of_the_decoder_is_the_pathwise_one(model: VAE, levels: Tensor) -> None:
    eps = noise(4)
    pathwise = gradients(model, levels, eps, samples=4)
    score = gradients(model, levels, eps, samples=4, estimator="score-function")
    decoder = [name for name in pathwise if name.startswith("decoder")]
    assert len(decoder) == 4
    for name in decoder:
        torch.testing.assert_close(score[name], pathwise[name], msg=name)


def test_the_score_function_gradient_of_the_encoder_weighs_scores_by_their_advantage(
    model: VAE, levels: Tensor
) -> None:
    eps = noise(4)
    found = gradients(model, levels, eps, beta=0.0, samples=4, estimator="score-function")
    with torch.no_grad():
        mu, logvar = model.encode(model.normalise(levels))
        z = model.reparameterise(mu, logvar, eps)
        likelihood = log_px_z(model, levels, z)
        advantage = (
            likelihood - (likelihood.sum(dim=0) - likelihood) / 3
        )  # over the mean of the other samples
        scores = torch.cat([(z - mu) / logvar.exp(), ((z - mu) ** 2 / logvar.exp() - 1) / 2], dim=2)
        expected = -(advantage.unsqueeze(2) * scores).mean(dim=(0, 1))
    torch.testing.assert_close(found[LAST_BIAS], expected)


def test_the_score_function_gradient_of_the_encoder_is_the_pathwise_one_in_expectation(
    model: VAE, levels: Tensor
) -> None:
    runs, samples = 60, 320

    def draw(estimator: str, seeds: range) -> Tensor:
        options = {"beta": 0.0, "samples": 2, "estimator": estimator}  # the KL's gradient is exact
        return torch.stack(
            [gradients(model, levels, noise(samples, seed=seed), **options)[LAST_BIAS] for seed in seeds]
        )

    pathwise = draw("reparameterised", range(runs))
    score = draw("score-function", range(runs, 2 * runs))
    standard_error = ((pathwise.var(dim=0) + score.var(dim=0)) / runs).sqrt()
    difference = pathwise.mean(dim=0) - score.mean(dim=0)
    assert standard_error.norm() < 0.04 * pathwise.mean(dim=0).norm()
    assert (difference.abs() < 5 * standard_error).all()
