import math

import pytest
import torch

from models.config import VAEConfig
from models.objectives import (
    bits_per_dim,
    bounds,
    free_bits_kl,
    gaussian_kl,
    gaussian_kl_per_dim,
    iwae_bound,
    log_gaussian,
    log_px_z,
    log_standard_normal,
    monte_carlo_kl,
    score_function_surrogate,
)
from models.vae import VAE


def test_kl_of_the_prior_with_itself_is_zero() -> None:
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


def test_kl_has_its_closed_form() -> None:
    mu, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(4)]])
    expected = 0.5 * 1 + 0.5 * (4 + 4 - 1 - math.log(4))
    torch.testing.assert_close(gaussian_kl(mu, logvar), torch.tensor([expected]))


def test_log_densities_agree_with_torch() -> None:
    z, mu, logvar = torch.randn(5, 3, 4), torch.randn(3, 4), torch.randn(3, 4)
    normal = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    torch.testing.assert_close(log_gaussian(z, mu, logvar), normal.log_prob(z).sum(-1))
    torch.testing.assert_close(log_standard_normal(z), torch.distributions.Normal(0, 1).log_prob(z).sum(-1))


def test_monte_carlo_kl_converges_to_the_closed_form() -> None:
    mu, logvar = torch.tensor([[0.5, -1.0]]), torch.tensor([[-1.0, 0.3]])
    z = VAE.reparameterise(mu, logvar, torch.randn(200_000, 1, 2))
    estimates = monte_carlo_kl(z, mu, logvar)
    standard_error = estimates.std() / math.sqrt(len(estimates))
    assert (estimates.mean() - gaussian_kl(mu, logvar)[0]).abs() < 4 * standard_error


def test_free_bits_hold_up_each_latent_by_its_batch_mean() -> None:
    kl_per_dim = torch.tensor([[0.1, 3.0], [0.3, 5.0]])
    torch.testing.assert_close(free_bits_kl(kl_per_dim, nats=0.5), torch.tensor(0.5 + 4.0))
    torch.testing.assert_close(free_bits_kl(kl_per_dim, nats=0.0), torch.tensor(0.2 + 4.0))


def linear_gaussian_terms(samples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """p(z) = N(0, 1), p(x given z) = N(z, 1), so p(x) = N(0, 2); q is off on purpose. x = 1.5."""
    x = torch.tensor([[1.5]])
    mu, logvar = torch.tensor([[0.5]]), torch.tensor([[0.0]])
    z = VAE.reparameterise(mu, logvar, torch.randn(samples, 1, 1))
    log_marginal = torch.distributions.Normal(0, math.sqrt(2)).log_prob(x).item()
    return log_standard_normal(x - z), log_standard_normal(z), log_gaussian(z, mu, logvar), log_marginal


def test_iwae_bound_reaches_a_known_log_likelihood() -> None:
    *terms, log_marginal = linear_gaussian_terms(200_000)
    assert iwae_bound(*terms).item() == pytest.approx(log_marginal, abs=5e-3)


def test_iwae_bound_of_the_exact_posterior_is_exact_with_one_sample() -> None:
    x = torch.tensor([[1.5]])
    mu, logvar = x / 2, torch.full((1, 1), math.log(0.5))
    z = VAE.reparameterise(mu, logvar, torch.randn(1, 1, 1))
    bound = iwae_bound(log_standard_normal(x - z), log_standard_normal(z), log_gaussian(z, mu, logvar))
    assert bound.item() == pytest.approx(
        torch.distributions.Normal(0, math.sqrt(2)).log_prob(x).item(), abs=1e-6
    )


def test_more_samples_tighten_the_bound() -> None:
    def mean_bound(samples: int) -> float:
        terms = [
            torch.cat(parts, dim=1)
            for parts in zip(*(linear_gaussian_terms(samples)[:3] for _ in range(2000)), strict=True)
        ]
        return iwae_bound(*terms).mean().item()

    assert mean_bound(1) < mean_bound(5) < mean_bound(50)


def test_bits_per_dim_counts_every_subpixel() -> None:
    assert bits_per_dim(torch.tensor(math.log(2) * 3 * 8 * 8 * 5), (3, 8, 8)).item() == pytest.approx(5.0)


@pytest.mark.parametrize("samples", [2, 8])
def test_score_function_and_reparameterised_gradients_agree(samples: int) -> None:
    """∇ E_q[−(z − 3)²] by q's mean and logvar: exactly −2(mu − 3) and −σ²."""
    mu, logvar = torch.tensor([[0.5]], requires_grad=True), torch.tensor([[0.2]], requires_grad=True)
    runs = 40_000
    wide_mu, wide_logvar = mu.expand(runs, 1), logvar.expand(runs, 1)
    z = VAE.reparameterise(wide_mu, wide_logvar, torch.randn(samples, runs, 1)).detach()
    signal = -(z - 3).square().sum(-1)
    surrogate = score_function_surrogate(signal, log_gaussian(z, wide_mu, wide_logvar)).mean()
    gradients = torch.autograd.grad(surrogate, [mu, logvar])
    assert gradients[0].item() == pytest.approx(5.0, rel=0.02)
    assert gradients[1].item() == pytest.approx(-math.exp(0.2), rel=0.05)


def test_score_function_needs_two_samples() -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        score_function_surrogate(torch.zeros(1, 3), torch.zeros(1, 3))


def test_log_px_z_keeps_samples_and_images_apart(small_config: VAEConfig) -> None:
    model = VAE(small_config).eval()
    levels = torch.randint(0, 256, (3, 1, 8, 8)).to(torch.uint8)
    z = torch.randn(5, 3, 4)
    together = log_px_z(model, levels, z)
    alone = model.likelihood.log_prob(levels[1:2], model.decode(z[4, 1:2]))
    assert together.shape == (5, 3)
    torch.testing.assert_close(together[4, 1], alone[0])


def test_bounds_are_consistent(small_config: VAEConfig) -> None:
    model = VAE(small_config).eval()
    levels = torch.randint(0, 256, (3, 1, 8, 8)).to(torch.uint8)
    with torch.no_grad():
        found = bounds(model, levels, torch.randn(64, 3, 4))
        mu, logvar = model.encode(model.normalise(levels))
    torch.testing.assert_close(found["elbo"], -found["distortion"] - found["kl"])
    torch.testing.assert_close(found["kl"], gaussian_kl_per_dim(mu, logvar).sum(1))
    assert (found["nll"] < -found["elbo"] + 0.1).all()
