import itertools

import pytest
import torch

from models.config import InputConfig, LikelihoodConfig, VAEConfig
from models.vae import VAE, Autoencoder, rectified, stage_sizes

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 9, 13), (3, 64, 64), (1, 8, 63)]
LIKELIHOODS = [
    LikelihoodConfig(name="bernoulli"),
    LikelihoodConfig(name="beta-binomial"),
    LikelihoodConfig(name="logistic-mixture", components=3),
]


def config_for(family: str, shape: tuple[int, int, int], likelihood: LikelihoodConfig) -> VAEConfig:
    return VAEConfig.model_validate(
        {
            "family": family,
            "latent_dim": 5,
            "channels": (6, 7),
            "blocks": (1, 0) if family == "convolutional" else (),
            "likelihood": likelihood,
            "input": InputConfig(shape=shape, levels=2 if likelihood.name == "bernoulli" else 256),
        }
    )


@pytest.mark.parametrize(
    ("family", "shape", "likelihood"),
    list(itertools.product(["convolutional", "fully-connected"], SHAPES, LIKELIHOODS)),
    ids=str,
)
def test_every_family_takes_every_shape_and_likelihood(
    family: str, shape: tuple[int, int, int], likelihood: LikelihoodConfig
) -> None:
    model = VAE(config_for(family, shape, likelihood))
    pixels = torch.randint(0, 256, (2, *shape)).to(torch.uint8)
    mu, logvar = model.encode(model.normalise(model.to_levels(pixels)))
    parameters = model.decode(model.reparameterise(mu, logvar, torch.randn(2, 5)))
    assert mu.shape == logvar.shape == (2, 5)
    assert parameters.shape == (2, shape[0], model.likelihood.parameters, *shape[1:])
    assert model.to_pixels(model.x_hat(mu)).shape == pixels.shape


def test_reparameterise_is_mu_plus_std_times_eps() -> None:
    mu, logvar = torch.tensor([[1.0]]), torch.tensor([[2.0]]).log() * 2
    assert VAE.reparameterise(
        mu, logvar, torch.tensor([[[3.0]], [[-1.0]]])
    ).flatten().tolist() == pytest.approx([7.0, -1.0])


def test_logvar_is_clamped_to_the_config(small_config: VAEConfig) -> None:
    model = VAE(small_config)
    torch.nn.init.constant_(model.encoder[-1].bias, 100.0)
    _, logvar = model.encode(torch.zeros(1, 1, 8, 8))
    assert (logvar == 6.0).all()


def test_normalised_levels_span_the_range_and_come_back(small_config: VAEConfig) -> None:
    model = VAE(small_config)
    pixels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    x = model.normalise(model.to_levels(pixels))
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    assert torch.equal(model.to_pixels(x), pixels)


def test_binary_models_see_pixels_from_128_up_as_one() -> None:
    model = VAE(config_for("fully-connected", (1, 8, 8), LIKELIHOODS[0]))
    pixels = torch.tensor([0, 127, 128, 255] * 16, dtype=torch.uint8).view(1, 1, 8, 8)
    assert model.to_levels(pixels).flatten()[:4].tolist() == [0, 0, 1, 1]
    assert model.to_pixels(model.normalise(model.to_levels(pixels))).flatten()[:4].tolist() == [
        0,
        0,
        255,
        255,
    ]


def test_an_image_encodes_alike_alone_and_in_a_batch(small_config: VAEConfig) -> None:
    model = VAE(small_config).eval()
    x = torch.randn(7, 1, 8, 8)
    torch.testing.assert_close(model.encode(x)[0][3:4], model.encode(x[3:4])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["convolutional", "fully-connected"])
def test_mixed_precision_ends_before_the_last_layer_of_the_decoder(family: str) -> None:
    model = VAE(config_for(family, (1, 8, 8), LIKELIHOODS[2]))
    with torch.autocast("cpu", torch.bfloat16):
        parameters = model.decode(torch.randn(2, 5))
    assert parameters.dtype == torch.float32
    rounded = parameters.bfloat16().float()
    assert (rounded == parameters).float().mean() < 0.1  # bfloat16 keeps one float32 in 65,536


def test_rectifiers_leak_an_eighth() -> None:
    assert rectified(torch.tensor([-8.0, -1.0, 0.0, 3.0])).tolist() == [-1.0, -0.125, 0.0, 3.0]


def test_stage_sizes_halve_and_round_up() -> None:
    assert stage_sizes(28, 9, stages=3) == [(28, 9), (14, 5), (7, 3), (4, 2)]


def test_an_autoencoder_has_one_number_a_latent_and_no_posterior(small_config: VAEConfig) -> None:
    model = Autoencoder(small_config)
    assert model.code(torch.zeros(3, 1, 8, 8)).shape == (3, 4)
    assert not hasattr(model, "encode")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"shape": (2, 8, 8)}}, "shape .* is outside"),
        ({"input": {"shape": (1, 7, 8)}}, "shape .* is outside"),
        ({"input": {"shape": (1, 8, 65)}}, "shape .* is outside"),
        ({"input": {"shape": (1, 8, 8), "range": (1.0, 1.0)}}, "must rise"),
        ({"likelihood": {"name": "bernoulli"}}, "does not describe 256 levels"),
        ({"likelihood": {"name": "beta-binomial", "components": 2}}, "has no components"),
        ({"likelihood": {"name": "beta-binomial", "conditional": True}}, "cannot be conditional"),
        ({"likelihood": {"name": "logistic-mixture", "conditional": True}}, "needs 3 channels"),
        ({"blocks": (1,)}, "blocks must have 2 entries"),
        ({"family": "fully-connected"}, "blocks must have 0 entries"),
        ({"depth": 3}, "Extra inputs are not permitted"),
        ({"channels": (8, 0)}, "greater than or equal to 1"),
        ({"channels": (8, 4097)}, "less than or equal to 4096"),
        ({"channels": (8, 8.0)}, "valid integer"),
        ({"channels": ()}, "channels must have at least 1 entry"),
        ({"blocks": (1, -1)}, "greater than or equal to 0"),
        ({"blocks": (1, 65)}, "less than or equal to 64"),
        ({"latent_dim": "4"}, "valid integer"),
        ({"clamp": (6.0, -12.0)}, r"clamp \(6.0, -12.0\) must rise"),
        ({"clamp": (-12.0, float("inf"))}, "finite number"),
        ({"input": {"shape": (1, 8, 8), "range": (float("nan"), 1.0)}}, "finite number"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(
    small_config: VAEConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        VAEConfig.model_validate({**small_config.model_dump(), **changes})
