"""Fitting a codec: the same twice, better than before, and refused where there is no use for one."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch

import training.codec
from codec.chunk import decode_chunk, encode_chunk
from codec.encoding import KINDS, Manner, compress
from codec.model import dumped
from models.config import InputConfig, LikelihoodConfig, VAEConfig
from models.vae import VAE
from tests.codecs import MEANS, SHAPES, TRAINING, pictures, tiny_data, tiny_vae
from training.codec import CodecNetwork, fit_codec
from training.codec_figures import codec_figures
from training.errors import RunError

SHAPE = SHAPES["grey"]


def test_it_is_the_same_for_the_same_seed_and_leaves_the_vae_alone() -> None:
    short = TRAINING.model_copy(update={"epochs": 2})
    model = tiny_vae(SHAPE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = dumped(fit_codec(model, tiny_data(SHAPE), short, seed=0).codec)
    assert dumped(fit_codec(model, tiny_data(SHAPE), short, seed=0).codec) == first
    assert dumped(fit_codec(model, tiny_data(SHAPE), short, seed=1).codec) != first
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_training_makes_streams_shorter() -> None:
    images = pictures(SHAPE, 20, seed=9)
    sizes = []
    for epochs in (1, 30):
        config = TRAINING.model_copy(update={"epochs": epochs})
        codec = fit_codec(tiny_vae(SHAPE), tiny_data(SHAPE), config, seed=0).codec
        stream = encode_chunk(codec, images)
        np.testing.assert_array_equal(decode_chunk(codec, stream, len(images)), images)
        sizes.append(len(stream))
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("kind", SHAPES)
def test_integers_cost_little_over_floats_and_payloads_little_over_their_estimate(kind: str) -> None:
    shape = SHAPES[kind]
    config = TRAINING.model_copy(update={"features": 0}) if kind == "alone" else TRAINING
    model = tiny_vae(shape, MEANS)
    fitted = fit_codec(model, tiny_data(shape), config, seed=0)
    images = pictures(shape, 120, seed=9)
    figures = codec_figures(fitted, model, images)
    for effort in KINDS:
        integer = figures.integer_estimate[effort]
        assert integer == pytest.approx(figures.float_estimate[effort], rel=0.01)
        assert integer < figures.bits_per_dim[effort] < 1.005 * integer
        assert (
            figures.bits_per_dim[effort]
            == 8 * len(compress(images, fitted.codec, Manner(effort))) / images.size
        )
    if kind != "grey":  # other networks, another estimate: it is not the payload's own
        return
    untrained = fit_codec(model, tiny_data(shape), config.model_copy(update={"epochs": 1}), seed=0)
    mixed = fitted._replace(best=untrained.best)
    assert codec_figures(mixed, model, images).float_estimate["best"] > 1.1 * figures.float_estimate["best"]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of the steps whose loss is NaN."""
    steps: set[int] = set()
    taken = count()
    forward = CodecNetwork.forward

    def poison(self: CodecNetwork, levels: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        loss = forward(self, levels, k)
        return loss * torch.nan if next(taken) in steps else loss

    monkeypatch.setattr(CodecNetwork, "forward", poison)
    return steps


def test_a_step_without_a_finite_gradient_is_left_out(poisoned: set[int]) -> None:
    poisoned.update({0, 3, 4})
    config = TRAINING.model_copy(update={"epochs": 1})
    codec = fit_codec(tiny_vae(SHAPE), tiny_data(SHAPE), config, seed=0).codec
    images = pictures(SHAPE, 2)
    np.testing.assert_array_equal(decode_chunk(codec, encode_chunk(codec, images), 2), images)


def test_a_codec_that_has_diverged_is_given_up(poisoned: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.codec, "DIVERGED_STEPS", 3)
    poisoned.update({0, 1, 4, 5, 6})
    with pytest.raises(RunError, match="the codec has diverged: in 3 steps in a row, to step 7, "):
        fit_codec(tiny_vae(SHAPE), tiny_data(SHAPE), TRAINING, seed=0)


def test_a_batch_that_exceeds_the_data_is_refused() -> None:
    with pytest.raises(RunError, match=r"codec\.batch_size 65 exceeds the 64 training images"):
        fit_codec(tiny_vae(SHAPE), tiny_data(SHAPE), TRAINING.model_copy(update={"batch_size": 65}), seed=0)


@pytest.mark.parametrize(("family", "levels"), [("fully-connected", 256), ("convolutional", 2)])
def test_a_vae_without_use_for_one_is_refused(family: str, levels: int) -> None:
    likelihood = "bernoulli" if levels == 2 else "beta-binomial"
    config = VAEConfig(
        family=family,
        latent_dim=2,
        channels=(4,),
        blocks=(0,) if family == "convolutional" else (),
        likelihood=LikelihoodConfig(name=likelihood),
        input=InputConfig(shape=SHAPE, levels=levels),
    )
    with pytest.raises(RunError, match="a codec needs a convolutional VAE of 256 levels"):
        fit_codec(VAE(config), tiny_data(SHAPE), TRAINING, seed=0)
