"""The context network: it sees nothing that is not decoded yet, and its integers follow its floats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from codec.context import LANES, context_faults, packed_network, slots_of_levels
from codec.mixture import make_tables
from codec.rans import TOTAL
from models.vae import Upsample
from tests.codecs import SHAPES, TRAINING, pictures
from training.config import CodecTraining
from training.context import ContextModel, Grid, context_offsets, integer_context, log_prob, whitening

ACTIVATIONS = 3


def built(shape: tuple[int, int, int], config: CodecTraining = TRAINING) -> ContextModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = Upsample(ACTIVATIONS, config.features, (shape[1], shape[2]))
        model = ContextModel(
            shape,
            reach=config.reach,
            hidden=config.hidden,
            layers=config.layers,
            components=config.components,
            whitening=whitening(torch.from_numpy(pictures(shape, 8)), config.reach),
            head=head,
            features=config.features,
        )
        for parameter in model.last.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return model


def inputs(shape: tuple[int, int, int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    _, height, width = shape
    generator = torch.Generator().manual_seed(1)
    half = (math.ceil(height / 2), math.ceil(width / 2))
    return torch.from_numpy(pictures(shape, count)), torch.randn(
        count, ACTIVATIONS, *half, generator=generator
    )


def test_the_context_is_all_pixels_before_one_within_reach() -> None:
    assert context_offsets(1).tolist() == [[-1, -1], [-1, 0], [-1, 1], [0, -1]]
    assert len(context_offsets(4)) == 40


@pytest.mark.parametrize("shape", SHAPES.values())
def test_a_level_depends_on_those_before_it_alone(shape: tuple[int, int, int]) -> None:
    model = built(shape)
    levels, activations = inputs(shape, 1)
    channels, height, width = shape
    with torch.inference_mode():
        before = model(levels, activations)
        for channel in range(channels):
            changed = levels.clone()
            changed[0, channel, 4, 5] ^= 255
            moved = (model(changed, activations) - before).abs().amax(dim=(0, 2, 3)) > 0
            order = torch.arange(channels * height * width).view(height, width, channels).permute(2, 0, 1)
            first = order[channel, 4, 5]
            assert moved.any()
            assert bool((order[moved] > first).all())


@pytest.mark.parametrize("shape", SHAPES.values())
@pytest.mark.parametrize("grid", [Grid(0, 0, 2), Grid(1, 0, 2), Grid(2, 1, 3), Grid(3, 3, 4)])
def test_a_grid_has_what_all_pixels_have_there(shape: tuple[int, int, int], grid: Grid) -> None:
    model = built(shape)
    levels, activations = inputs(shape, 2)
    with torch.inference_mode():
        torch.testing.assert_close(model(levels, activations, grid), grid.of(model(levels, activations)))


def test_whitened_levels_are_uncorrelated_and_of_one_size() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randint(40, 200, (64, 1, 1, 1), generator=generator)
    levels = (shared + torch.randint(-20, 21, (64, 3, 9, 9), generator=generator)).to(torch.uint8)
    matrix = whitening(levels, 1)
    torch.testing.assert_close(matrix, matrix.T, atol=1e-4, rtol=0)
    padded = torch.nn.functional.pad((levels.float() - 128) / 128, (1, 1, 1, 0))
    offsets = context_offsets(1).tolist()
    seen = [padded[:, c, 1 + y : 10 + y, 1 + x : 10 + x] for c in range(3) for y, x in offsets]
    whitened = matrix @ torch.stack([values.flatten() for values in seen])
    covariance = whitened @ whitened.T / whitened.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.02, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES.values())
def test_integers_cost_what_the_floats_say(shape: tuple[int, int, int], layers: int) -> None:
    model = built(shape, TRAINING.model_copy(update={"layers": layers}))
    levels, activations = inputs(shape, 32)
    with torch.inference_mode():
        expected = -log_prob(levels, model(levels, activations)) / math.log(2)
        assert model.head is not None
        features = torch.nn.functional.leaky_relu(model.head(activations), 1 / 8)
    steps = features.abs().amax(dim=(0, 2, 3)) / 223
    units = torch.round(features / steps[:, None, None]).permute(0, 2, 3, 1).numpy().astype(np.int16)
    net = integer_context(model, steps, levels, activations)
    assert context_faults("context", net, TRAINING.reach) == []
    in_place = np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())
    network = packed_network(net, TRAINING.features, LANES)
    _, frequencies = slots_of_levels(in_place, 0, units, network, make_tables())
    assert -np.log2(frequencies / TOTAL).mean() == pytest.approx(float(expected.mean()), rel=2e-3)


def test_a_large_bias_takes_bits_from_the_weights_beside_it() -> None:
    model = built(SHAPES["grey"])
    with torch.no_grad():
        model.last.weight *= 1e-6
        model.last.bias += 200.0
    levels, activations = inputs(SHAPES["grey"], 4)
    assert (
        context_faults("context", integer_context(model, torch.ones(4), levels, activations), TRAINING.reach)
        == []
    )


def test_probabilities_sum_to_one() -> None:
    model = built(SHAPES["grey"])
    levels, activations = inputs(SHAPES["grey"], 1)
    with torch.inference_mode():
        outputs = model(levels, activations).expand(256, -1, -1, -1, -1, -1)
        every = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, *SHAPES["grey"])
        total = torch.exp(log_prob(every, outputs).double()).sum(dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)
