"""A VAE in integers follows the one in floats, and sums that would not be exact get smaller weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from codec.integer import EXACT, LARGEST_ACTIVATION, LARGEST_SHIFT
from models.vae import Upsample, rectified
from tests.codecs import SHAPES, pictures, tiny_vae
from training.quantisation import _quantised, integer_decoder, integer_encoder


@pytest.mark.parametrize("shape", SHAPES.values())
def test_latents_are_mu_in_steps_rounded(shape: tuple[int, int, int]) -> None:
    model = tiny_vae(shape)
    levels = torch.from_numpy(pictures(shape, 64))
    with torch.inference_mode():
        mu, _ = model.encode(model.normalise(levels))
    steps = mu.abs().amax(dim=0) / 20
    k = torch.from_numpy(integer_encoder(model, steps, levels).latents(levels.numpy()))
    difference = k - mu / steps
    assert difference.abs().max() < 1.5
    assert difference.square().mean().sqrt() < 0.4  # 0.29 for exact rounding


@pytest.mark.parametrize("shape", SHAPES.values())
def test_features_are_the_floats_in_steps_rounded(shape: tuple[int, int, int]) -> None:
    model = tiny_vae(shape)
    _, *size = shape
    head = Upsample(model.config.channels[0], 6, (size[0], size[1]))
    decoder = nn.Sequential(*list(model.decoder)[:-1], head)
    latent_steps = torch.full((model.config.latent_dim,), 0.05)
    k = torch.randint(-40, 41, (64, model.config.latent_dim), generator=torch.Generator().manual_seed(0))
    integer, steps = integer_decoder(model.config, decoder, latent_steps, k.float())
    features = torch.from_numpy(integer.features(k.numpy().astype(np.int8))) * steps
    with torch.inference_mode():
        expected = rectified(decoder(k * latent_steps)).permute(0, 2, 3, 1)
    assert (features - expected).square().mean() < 0.02**2 * expected.square().mean()


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_a_padded_image_is_padded_with_the_level_of_zero(value: float) -> None:
    model = tiny_vae(SHAPES["grey"])
    input_range = model.config.input.model_copy(update={"range": (value, 1.0)})
    model.config = model.config.model_copy(update={"input": input_range})
    levels = torch.from_numpy(pictures(SHAPES["grey"], 8))
    encoder = integer_encoder(model, torch.ones(5), levels)
    assert encoder.padding == {-1.0: 0, 0.0: -128}[value]


def test_many_inputs_get_smaller_weights_so_that_their_sum_stays_exact() -> None:
    weight, bias = torch.ones(2, 4096), torch.tensor([3.0, -3.9])
    weight[1] = 0
    layer = _quantised(weight, bias, torch.ones(4096), torch.ones(2))
    assert layer.largest_sums[0] <= EXACT
    assert layer.weight[:, 0].max() == 2 ** int(np.log2(EXACT / (4096 * LARGEST_ACTIVATION)))
    assert layer.largest_sums[1] <= EXACT


def test_a_layer_of_nothing_has_a_shift_in_range() -> None:
    layer = _quantised(torch.zeros(1, 8), torch.zeros(1), torch.ones(8), torch.ones(1))
    assert layer.shift.tolist() == [LARGEST_SHIFT]
