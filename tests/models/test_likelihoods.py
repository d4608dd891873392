import math

import pytest
import torch
from torch import Tensor

from models.config import LikelihoodConfig
from models.likelihoods import BetaBinomial, Likelihood, LogisticMixture, build_likelihood


def table(likelihood: Likelihood, parameters: Tensor) -> Tensor:
    """Probability of every level, (levels, C, H, W), for the parameters (1, C, P, H, W) of one image."""
    _, channels, _, height, width = parameters.shape
    every = torch.arange(likelihood.levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    levels = every.expand(-1, channels, height, width)
    return likelihood.log_prob_per_pixel(levels, parameters.expand(len(levels), -1, -1, -1, -1)).exp()


LIKELIHOODS = [
    LikelihoodConfig(name="bernoulli"),
    LikelihoodConfig(name="beta-binomial"),
    LikelihoodConfig(name="logistic-mixture", components=1),
    LikelihoodConfig(name="logistic-mixture", components=7),
]


def build(config: LikelihoodConfig) -> Likelihood:
    return build_likelihood(config, levels=2 if config.name == "bernoulli" else 256)


def logistic(locations: Tensor, log_scale: float) -> Tensor:
    """Parameters of one logistic a location, in units where the levels span −1 … 1, in a row of pixels."""
    raw = [torch.zeros_like(locations), torch.atanh(locations / 1.25)]
    raw.append(torch.full_like(locations, 4 * math.atanh((log_scale + 3) / 4)))
    return torch.stack(raw).view(1, 1, 3, 1, -1)


@pytest.mark.parametrize("config", LIKELIHOODS, ids=lambda c: f"{c.name}-{c.components}")
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_probabilities_of_a_pixel_sum_to_one(config: LikelihoodConfig, spread: float) -> None:
    likelihood = build(config)
    parameters = torch.randn(1, 3, likelihood.parameters, 4, 5, dtype=torch.float64) * spread
    torch.testing.assert_close(table(likelihood, parameters).sum(0), torch.ones(3, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("config", LIKELIHOODS, ids=lambda c: f"{c.name}-{c.components}")
@pytest.mark.parametrize("spread", [0.1, 3.0, 3000.0])
def test_probabilities_sum_to_one_in_single_precision(config: LikelihoodConfig, spread: float) -> None:
    likelihood = build(config)
    parameters = torch.randn(1, 3, likelihood.parameters, 4, 5) * spread
    found = table(likelihood, parameters)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(0), torch.ones(3, 4, 5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", LIKELIHOODS[:2], ids=lambda c: c.name)
def test_mean_is_the_mean_of_the_table(config: LikelihoodConfig) -> None:
    likelihood = build(config)
    parameters = torch.randn(1, 1, likelihood.parameters, 6, 6, dtype=torch.float64) * 2
    levels = torch.arange(likelihood.levels, dtype=torch.float64).view(-1, 1, 1, 1)
    expected = (table(likelihood, parameters) * levels).sum(0, keepdim=True)
    torch.testing.assert_close(likelihood.mean(parameters), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("scale_in_levels", "tolerance"), [(0.12, 0.5), (0.5, 0.022), (1.0, 0.011), (40.0, 3e-4)]
)
def test_mean_of_a_logistic_is_near_that_of_the_table(scale_in_levels: float, tolerance: float) -> None:
    likelihood = LogisticMixture(256, components=1)
    locations = torch.linspace(-1.2, 1.2, 501, dtype=torch.float64)
    parameters = logistic(locations, math.log(scale_in_levels * 2 / 255))
    levels = torch.arange(256, dtype=torch.float64).view(-1, 1, 1, 1)
    expected = (table(likelihood, parameters) * levels).sum(0)
    assert (likelihood.mean(parameters)[0] - expected).abs().max() < tolerance


def test_beta_binomial_with_unit_concentrations_is_uniform() -> None:
    likelihood = BetaBinomial(256)
    inverse_softplus_of_one = math.log(math.expm1(1 - 1e-3))
    parameters = torch.full((1, 1, 2, 1, 1), inverse_softplus_of_one, dtype=torch.float64)
    torch.testing.assert_close(table(likelihood, parameters).flatten(), torch.full((256,), 1 / 256).double())


def test_a_narrow_logistic_gives_its_level_almost_all_the_mass() -> None:
    likelihood = LogisticMixture(256, components=1)
    parameters = logistic(torch.tensor([2 * 100 / 255 - 1], dtype=torch.float64), log_scale=-6.5)
    mass = math.tanh(0.25 / (math.exp(-6.5) * 127.5))  # of half a level to either side
    torch.testing.assert_close(table(likelihood, parameters)[100].item(), mass, rtol=1e-9, atol=0)


def test_far_tails_stay_finite_in_single_precision() -> None:
    likelihood = LogisticMixture(256, components=1)
    parameters = logistic(torch.tensor([0.5]), log_scale=-6.5)
    log_prob = likelihood.log_prob(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), parameters)
    # 1.5 − 1/255 to the upper edge of level 0, in scales
    torch.testing.assert_close(log_prob.item(), -(1.5 - 1 / 255) * math.exp(6.5), rtol=1e-4, atol=0)


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_gradients_of_extreme_parameters_are_finite(extreme: float) -> None:
    likelihood = LogisticMixture(256, components=2)
    parameters = torch.full((3, 1, 6, 1, 1), extreme)
    parameters[:, :, ::2] *= -1
    parameters.requires_grad_()
    levels = torch.tensor([0, 100, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    likelihood.log_prob(levels, parameters).sum().backward()  # type: ignore[no-untyped-call]
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


@pytest.mark.parametrize("config", LIKELIHOODS, ids=lambda c: f"{c.name}-{c.components}")
def test_log_prob_sums_over_an_image_alone(config: LikelihoodConfig) -> None:
    likelihood = build(config)
    levels = torch.randint(0, likelihood.levels, (5, 3, 4, 2)).to(torch.uint8)
    parameters = torch.randn(5, 3, likelihood.parameters, 4, 2)
    per_pixel = likelihood.log_prob_per_pixel(levels, parameters)
    torch.testing.assert_close(likelihood.log_prob(levels, parameters), per_pixel.flatten(1).sum(1))


CONDITIONAL = LikelihoodConfig(name="logistic-mixture", components=3, conditional=True)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_probabilities_of_a_channel_given_those_before_it_sum_to_one(channel: int) -> None:
    likelihood = build(CONDITIONAL)
    parameters = torch.randn(1, 3, likelihood.parameters, 2, 2, dtype=torch.float64)
    levels = torch.randint(0, 256, (1, 3, 2, 2)).to(torch.uint8).repeat(256, 1, 1, 1)
    levels[:, channel] = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1)
    found = likelihood.log_prob_per_pixel(levels, parameters.expand(256, -1, -1, -1, -1)).exp()
    torch.testing.assert_close(found[:, channel].sum(0), torch.ones(2, 2, dtype=torch.float64))
    before = found[:, :channel]
    torch.testing.assert_close(before, before[:1].expand_as(before))  # they do not see this channel


def test_a_channel_moves_with_the_distance_of_those_before_it_from_their_means() -> None:
    likelihood = build(LikelihoodConfig(name="logistic-mixture", components=1, conditional=True))
    parameters = torch.zeros(1, 3, 5, 1, 1, dtype=torch.float64)
    slopes = (0.5, -0.25, 1.0)
    for place, slope in zip([(1, 3), (2, 3), (2, 4)], slopes, strict=True):
        parameters[0, *place] = 2 * math.atanh(slope / 2)
    red, green = 170, 90  # the means are at level 127.5
    moved = (slopes[0] * (red - 127.5), slopes[1] * (red - 127.5) + slopes[2] * (green - 127.5))
    independent = build(LikelihoodConfig(name="logistic-mixture", components=1))
    levels = torch.tensor([red, green, 33], dtype=torch.uint8).view(1, 3, 1, 1)
    alone = torch.zeros(1, 3, 3, 1, 1, dtype=torch.float64)
    alone[0, 1:, 1, 0, 0] = torch.atanh(torch.tensor(moved).double() / 127.5 / 1.25)
    torch.testing.assert_close(
        likelihood.log_prob(levels, parameters), independent.log_prob(levels, alone), rtol=1e-9, atol=0
    )


def test_mean_of_a_conditional_mixture_is_that_of_its_samples() -> None:
    likelihood = LogisticMixture(256, components=2, conditional=True)
    generator = torch.Generator().manual_seed(0)
    # (1, 3, 8, 1, 1): locations well inside the levels, so that nothing is clipped
    parameters = torch.randn(1, 3, 8, 1, 1, generator=generator, dtype=torch.float64) * 0.3
    parameters[:, :, 4:6] = -2.0
    every = torch.arange(256, dtype=torch.uint8)
    count = 4000
    levels = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    for channel in range(3):  # by inverting each channel's distribution, given the samples so far
        table = torch.stack(
            [
                likelihood.log_prob_per_pixel(
                    _with(levels, channel, level), parameters.expand(count, -1, -1, -1, -1)
                )
                for level in every
            ]
        )[:, :, channel, 0, 0].exp()
        levels[:, channel, 0, 0] = torch.multinomial(table.T, 1, generator=generator)[:, 0].to(torch.uint8)
    found = levels.double().mean(dim=0)
    error = levels.double().std(dim=0) / math.sqrt(count)
    assert ((found - likelihood.mean(parameters)[0]).abs() < 5 * error + 0.05).all()


def _with(levels: Tensor, channel: int, level: Tensor) -> Tensor:
    changed = levels.clone()
    changed[:, channel] = level
    return changed
