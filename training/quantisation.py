"""From a trained VAE to integers: activation steps by calibration, eight-bit weights, shifts.

Each channel has a step of its own. A layer's weights take up the steps of its inputs and, to within a power
of two, of its outputs: channels of very different ranges each use their eight bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from codec.integer import EXACT, LARGEST_ACTIVATION, LARGEST_SHIFT, SMALLEST_ACTIVATION, STREAM_BITS, Layer
from codec.networks import CENTRE, Doubling, Halving, IntegerDecoder, IntegerEncoder
from models.config import VAEConfig
from models.likelihoods import Levels
from models.vae import VAE, Latent, ResidualBlock, Upsample, rectified, stage_sizes

LARGEST_WEIGHT = 127
QUANTILE = 0.9999  # of a channel's activations: what is larger is cut off
CALIBRATION_VALUES = 1 << 22  # of a layer's inputs, looked at for their ranges
NARROWEST = 2.0**-8  # range of a silent channel, as a part of the widest one's
Steps = Float[Tensor, " channel"]  # the value of 1
Ranges = dict[nn.Module, Float[Tensor, " channel"]]


def integer_encoder(model: VAE, latent_steps: Steps, levels: Levels) -> IntegerEncoder:
    """Return the encoder in integers, for k = mu / latent_steps.

    The ranges of its activations are those over the given images.
    """
    layers = [layer for layer in model.encoder if not isinstance(layer, nn.LeakyReLU | nn.Flatten)]
    ranges: Ranges = {}
    with _noted(model.encoder, ranges), torch.inference_mode():
        model.encoder(model.normalise(levels))
    stages: list[tuple[nn.Conv2d, list[ResidualBlock]]] = []
    for layer in layers[:-1]:
        if isinstance(layer, nn.Conv2d):
            stages.append((layer, []))
        else:
            assert isinstance(layer, ResidualBlock)
            stages[-1][1].append(layer)
    linear = layers[-1]
    assert isinstance(linear, nn.Linear)
    channels = stages[-1][0].out_channels
    places = linear.in_features // channels
    ranges[linear] = ranges[linear].unflatten(0, (channels, places)).amax(dim=1)
    readers = [*(convolution for convolution, _ in stages[1:]), linear]
    low, high = model.config.input.range
    level = torch.tensor([(high - low) / 255])
    halvings: list[Halving] = []
    inputs = level.expand(model.config.input.shape[0])
    for (convolution, blocks), reader in zip(stages, readers, strict=True):
        steps = _steps([*(ranges[block.first] for block in blocks), ranges[reader]])
        weight, bias = convolution.weight, _bias(convolution)
        if not halvings:  # x is a level and a constant
            bias = bias + weight.sum(dim=(1, 2, 3)) * (low + CENTRE * level)
        halving = _quantised(weight, bias, inputs, steps / 2**STREAM_BITS)
        halvings.append(Halving(halving, _blocks(blocks, ranges, steps)))
        inputs = steps
    mu = linear.weight[: model.config.latent_dim].unflatten(1, (channels, places)).transpose(1, 2).flatten(1)
    return IntegerEncoder(
        tuple(halvings),
        _quantised(mu, _bias(linear)[: model.config.latent_dim], inputs.repeat(places), latent_steps),
        round(min(max(-low * 255 / (high - low), 0), 255)) - CENTRE,
    )


def integer_decoder(
    config: VAEConfig,
    decoder: nn.Sequential,
    latent_steps: Steps,
    k: Latent,
    output_steps: Steps | None = None,
) -> tuple[IntegerDecoder, Steps]:
    """Return a VAE's decoder, whose last layer gives features before their rectifier, in integers.

    It decodes z = k·latent_steps; its ranges are those over the given latents. The steps are the features',
    chosen by their ranges too unless they are given.
    """
    ranges: Ranges = {}
    with _noted(decoder, ranges), torch.inference_mode():
        of_features = _range(rectified(decoder(k * latent_steps)))
    stages: list[tuple[list[ResidualBlock], Upsample]] = []
    blocks: list[ResidualBlock] = []
    for layer in decoder:
        if isinstance(layer, ResidualBlock):
            blocks.append(layer)
        elif isinstance(layer, Upsample):
            stages.append((blocks, layer))
            blocks = []
    steps = [
        _steps([*(ranges[block.first] for block in blocks), ranges[upsample.convolution]])
        for blocks, upsample in stages
    ]
    steps.append(_steps([of_features]) if output_steps is None else output_steps)
    sizes = stage_sizes(*config.input.shape[1:], len(config.channels))[::-1]
    linear = decoder[0]
    assert isinstance(linear, nn.Linear)
    places = sizes[0][0] * sizes[0][1]
    doublings = [
        Doubling(
            _blocks(blocks, ranges, before),
            _enlarging(upsample.convolution.weight, _bias(upsample.convolution), before, after, 4),
        )
        for (blocks, upsample), before, after in zip(stages, steps[:-1], steps[1:], strict=True)
    ]
    start = _enlarging(linear.weight, _bias(linear), latent_steps, steps[0], places)
    return IntegerDecoder(start, tuple(doublings), tuple(sizes)), steps[-1]


def _blocks(blocks: Iterable[ResidualBlock], ranges: Ranges, steps: Steps) -> tuple[tuple[Layer, Layer], ...]:
    integers = []
    for block in blocks:
        inner = _steps([ranges[block.second]])
        first = _quantised(block.first.weight, _bias(block.first), steps, inner)
        second = _quantised(block.second.weight, _bias(block.second), inner, steps / 2**STREAM_BITS)
        integers.append((first, second))
    return tuple(integers)


def _enlarging(weight: Tensor, bias: Tensor, inputs: Steps, outputs: Steps, places: int) -> Layer:
    """Return a layer whose outputs, by channel and place, become h by place and channel."""
    weight = weight.unflatten(0, (-1, places)).transpose(0, 1).flatten(0, 1)
    bias = bias.unflatten(0, (-1, places)).T.flatten()
    return _quantised(weight, bias, inputs, (outputs / 2**STREAM_BITS).repeat(places))


def _quantised(weight: Tensor, bias: Tensor, inputs: Steps, outputs: Steps) -> Layer:
    """Return a layer in integers, from the inputs' steps to the outputs'."""
    axes = [1] * (weight.dim() - 2)
    weight = weight.detach().double() * inputs.double().view(1, -1, *axes)
    weight = weight / outputs.double().view(-1, 1, *axes)
    widest = weight.abs().flatten(1).amax(dim=1).clamp(min=2.0**-20)
    shift = torch.floor(torch.log2(LARGEST_WEIGHT / widest))
    bias = bias.detach().double() / outputs.double()
    # A sum of many products may need smaller weights to stay exact.
    reach = weight.abs().flatten(1).sum(dim=1) * LARGEST_ACTIVATION + bias.abs() + 0.5
    shift = torch.minimum(shift, torch.floor(torch.log2(0.99 * EXACT / reach))).clamp(max=LARGEST_SHIFT)
    scale = torch.exp2(shift)
    integers = torch.round(weight * scale.view(-1, 1, *axes))
    by_input = integers.permute(2, 3, 1, 0).flatten(0, 2) if axes else integers.T
    return Layer(
        np.ascontiguousarray(by_input.numpy().astype(np.int8)),
        torch.round(bias * scale).numpy().astype(np.int32),
        shift.numpy().astype(np.int32),
    )


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


@contextmanager
def _noted(network: nn.Module, ranges: Ranges) -> Iterator[None]:
    """Note the range of each channel that the layers of a network read, rectified."""

    def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        ranges[layer] = _range(inputs[0])

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _range(activations: Float[Tensor, "batch channel *place"]) -> Float[Tensor, " channel"]:
    values = activations.transpose(0, 1).flatten(1)
    values = values[:, :: max(1, values.numel() // CALIBRATION_VALUES)]
    needed = torch.maximum(values, values * (LARGEST_ACTIVATION / SMALLEST_ACTIVATION))
    return torch.quantile(needed, QUANTILE, dim=1)


def _steps(ranges: Iterable[Float[Tensor, " channel"]]) -> Steps:
    """Return the steps that give each channel LARGEST_ACTIVATION of them, for all its readers."""
    widest = torch.stack(list(ranges)).amax(dim=0)
    widened = widest.clamp(min=float(widest.max()) * NARROWEST).clamp(min=torch.finfo(torch.float32).tiny)
    return widened / LARGEST_ACTIVATION
