"""The context network in floats: what is trained, and its way to integers.

levels before a pixel, `reach` away or less ─┬─► a prediction ───────────────┐
                                             ├─► hidden layers ──────────────┴─► a mixture of logistics
how far channels before were from theirs ────┤                                   around the prediction
the decoder's activations, if any ─► head ───┘
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from codec.context import INPUTS, LARGEST_INPUT, LARGEST_RESIDUAL, LARGEST_SHIFT, ContextNetwork
from codec.layers import LARGEST_UNIT, SMALLEST_UNIT
from codec.mixture import LEVELS, LOCATION_STEPS, LOGIT_STEPS, LOGITS, SCALES, SCALES_AN_OCTAVE
from codec.networks import CENTRE
from codec.rans import TOTAL
from models.likelihoods import Levels
from models.vae import Upsample, rectified

LARGEST_WEIGHT = 2**15 - 1
LARGEST_SUM = 2.0**29  # of a layer's products: 2^31 is the limit of sums, biases and rounding included
# Outputs of about −1 … 1 become logits in nats, locations in levels, scales in octaves above the smallest.
LOGIT_CENTRE = (LOGITS - 1) / LOGIT_STEPS / 2
OCTAVES, OCTAVE_CENTRE = 4, 6
RESIDUAL_GAIN = 8.0  # of how far a level was from its prediction, in half the range of levels
NOISE = 1 / CENTRE  # of levels: directions in which they vary less are not enlarged to the size of others
SPREAD = 0.25  # of the components' locations around the prediction, at first
Activations = Float[Tensor, "batch channel h w"]
Outputs = Float[Tensor, "batch channel 3 component height width"]


def context_offsets(reach: int) -> Int64[Tensor, "context 2"]:
    """Return (dy, dx) of the pixels before a pixel, in raster order, that are `reach` away or less."""
    rows, columns = torch.meshgrid(torch.arange(-reach, 1), torch.arange(-reach, reach + 1), indexing="ij")
    return torch.stack([rows, columns], dim=-1).flatten(0, 1)[: -reach - 1]


class Grid(NamedTuple):
    """Every n-th pixel of every n-th row."""

    top: int
    left: int
    stride: int

    def of(self, maps: Tensor) -> Tensor:
        """Return what is on the grid of maps (…, H, W)."""
        return maps[..., self.top :: self.stride, self.left :: self.stride]


ALL_PIXELS = Grid(0, 0, 1)


def whitening(levels: Levels, reach: int) -> Float[Tensor, "seen seen"]:
    """Return what makes the levels that a pixel sees, channel by channel, uncorrelated and of one size.

    They share their brightness, and differ from each other by little; a network of raw levels spends its
    training on telling the difference. ZCA whitening: Kessy, Lewin and Strimmer, 2018.
    """
    channels = levels.shape[1]
    x = F.pad((levels.float() - CENTRE) / CENTRE, (reach, reach, reach, 0))
    windows = F.unfold(x, (reach + 1, 2 * reach + 1)).unflatten(1, (channels, -1))
    seen = windows[:, :, : len(context_offsets(reach))].flatten(1, 2).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh((seen.T @ seen / len(seen)).double())
    scales = (values.clamp(min=0) + NOISE**2).rsqrt()
    return ((vectors * scales) @ vectors.T).float()


class PixelLayer(nn.Module):
    """A layer of each channel's own, at every pixel: (B, C·inputs, H, W) to (B, C·outputs, H, W)."""

    def __init__(self, channels: int, inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.randn(channels, outputs, inputs) * gain / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(channels, outputs))

    def forward(self, h: Tensor) -> Tensor:
        """Return the layer's outputs."""
        weight = self.weight.flatten(0, 1)[..., None, None]
        return F.conv2d(h, weight, self.bias.flatten(), groups=self.channels)


class ContextModel(nn.Module):
    """p(level given the levels before it and, with a head, the VAE decoder's last activations).

    `whitening` is what the function of that name gives of some images.
    """

    own_mask: Tensor
    whitening: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        reach: int,
        hidden: int,
        layers: int,
        components: int,
        whitening: Float[Tensor, "seen seen"],
        head: Upsample | None = None,
        features: int = 0,
    ) -> None:
        super().__init__()
        channels = shape[0]
        self.channels, self.reach, self.hidden, self.head = channels, reach, hidden, head
        context = len(context_offsets(reach))
        scale = math.sqrt(2 / (context * channels + features))
        self.of_whitened = nn.Parameter(torch.randn(hidden, channels * context) * scale / 2)
        self.of_features = nn.Parameter(torch.randn(hidden, features) * scale)
        # Of the channels of a pixel before each channel.
        self.of_own = nn.Parameter(torch.randn(channels, hidden, channels) * scale)
        self.bias = nn.Parameter(torch.zeros(channels, hidden))
        self.prediction = nn.Parameter(torch.zeros(channels, channels, context))
        self.prediction_of_own = nn.Parameter(torch.zeros(channels, channels))
        self.middle = nn.ModuleList(
            PixelLayer(channels, hidden, hidden, math.sqrt(2)) for _ in range(layers - 1)
        )
        self.last = PixelLayer(channels, hidden, 3 * components, 0.1)
        self._begin_with_neighbours()
        with torch.no_grad():  # locations apart, so that the components are
            self.last.bias.unflatten(1, (3, -1))[:, 1] = SPREAD * torch.linspace(-1, 1, components)
        own_mask = torch.ones(channels, channels).tril(-1)[:, None]
        self.register_buffer("own_mask", own_mask, persistent=False)
        self.register_buffer("whitening", whitening, persistent=False)

    @property
    def of_levels(self) -> Float[Tensor, "hidden channel context"]:
        """The first layer's weights of the levels that a pixel sees."""
        return (self.of_whitened @ self.whitening).unflatten(1, (self.channels, -1))

    def _begin_with_neighbours(self) -> None:
        """Predict a level from those around it, and from how far the channel before was from the same."""
        columns = 2 * self.reach + 1
        with torch.no_grad():
            for places_before, weight in ((1, 0.75), (columns, 0.75), (columns + 1, -0.5)):
                for channel in range(self.channels):
                    self.prediction[channel, channel, -places_before] = weight
                    if channel:
                        self.prediction[channel, channel - 1, -places_before] = -weight
            for channel in range(1, self.channels):
                self.prediction_of_own[channel, channel - 1] = 1.0

    def forward(
        self, levels: Levels, activations: Activations | None = None, grid: Grid = ALL_PIXELS
    ) -> Outputs:
        """Return what `log_prob` takes, for the levels on a grid; activations are what a head needs."""
        x = (levels.to(self.of_whitened.dtype) - CENTRE) / CENTRE
        # Differences of levels, and locations, need more than bfloat16's eight bits.
        with torch.autocast(x.device.type, enabled=False):
            seen = self._seen(x, self.of_levels, grid)
            of_own = self.prediction_of_own.tril(-1)[..., None, None]
            predicted = self._seen(x, self.prediction, grid) + F.conv2d(grid.of(x), of_own)
            residuals = RESIDUAL_GAIN * (grid.of(x) - predicted)
        if self.head is not None:
            features = rectified(grid.of(self.head(activations)))
            seen = seen + F.conv2d(features, self.of_features[..., None, None])
        own = (self.of_own * self.own_mask).flatten(0, 1)[..., None, None]
        h = seen.repeat(1, self.channels, 1, 1) + F.conv2d(residuals, own, self.bias.flatten())
        for layer in self.middle:
            h = layer(rectified(h))
        h = rectified(h)
        with torch.autocast(h.device.type, enabled=False):
            outputs: Tensor = self.last(h.float())
        logits, locations, scales = outputs.unflatten(1, (self.channels, 3, -1)).unbind(2)
        return torch.stack([logits, locations + predicted.unsqueeze(2), scales], dim=2)

    def _seen(self, x: Tensor, weight: Float[Tensor, "output channel context"], grid: Grid) -> Tensor:
        """Return the sums of the levels before each pixel of a grid."""
        reach = self.reach
        missing = (reach + 1) * (2 * reach + 1) - weight.shape[2]  # the pixel and those after it
        window = F.pad(weight, (0, missing)).unflatten(2, (reach + 1, 2 * reach + 1))
        padded = F.pad(x, (reach, reach, reach, 0))[..., grid.top :, grid.left :]
        return F.conv2d(padded, window, stride=grid.stride)


def log_prob(levels: Levels, outputs: Outputs) -> Float[Tensor, "batch channel height width"]:
    """Return each level's log probability, in nats, as `codec.mixture` shares out its slots."""
    logits, locations, scales = outputs.unbind(2)
    logits = (logits + LOGIT_CENTRE).clamp(0, 2 * LOGIT_CENTRE)
    locations = (locations * CENTRE + CENTRE).clamp(-32, LEVELS - 1 + 32)
    octaves = (scales * OCTAVES + OCTAVE_CENTRE).clamp(0, (SCALES - 1) / SCALES_AN_OCTAVE)
    inverse = LOCATION_STEPS * torch.exp2(-octaves)
    x = levels.to(outputs.dtype).unsqueeze(2)
    above, below = inverse * (x - locations + 0.5), inverse * (x - locations - 0.5)
    has_above, has_below = x < LEVELS - 1, x > 0
    zero = x.new_zeros(())
    log_mass = (
        torch.where(has_above, F.logsigmoid(above), zero)
        + torch.where(has_below, F.logsigmoid(-below), zero)
        + torch.where(has_above & has_below, torch.log(-torch.expm1(-inverse)), zero)
    )
    log_p = torch.logsumexp(logits + log_mass, dim=2) - torch.logsumexp(logits, dim=2)
    return torch.log(torch.exp(log_p) * (1 - LEVELS / TOTAL) + 1 / TOTAL)


def integer_context(
    model: ContextModel,
    feature_steps: Float[Tensor, " feature"],
    levels: Levels,
    activations: Activations | None = None,
) -> ContextNetwork:
    """Return the network in integers, for features in the given steps.

    The ranges of hidden units are those over the given images.
    """
    channels = model.channels
    hidden_steps = [wide / LARGEST_UNIT for wide in _hidden_ranges(model, levels, activations)]
    # The sums of what is seen serve every channel, whose hidden units share their steps for it.
    first_steps = hidden_steps[0].amax(dim=0)
    hidden_steps[0] = first_steps.expand_as(hidden_steps[0])

    of_levels = _double(model.of_levels).transpose(1, 2).flatten(1) / CENTRE
    of_features = _double(model.of_features) * feature_steps.double()
    of_own = _double(model.of_own * model.own_mask) * (RESIDUAL_GAIN / CENTRE / LOCATION_STEPS)
    inputs = torch.cat([of_levels, of_features], dim=1)
    inputs = F.pad(inputs, (0, -inputs.shape[1] % INPUTS))
    first_bias = _double(model.bias) / first_steps
    both = torch.cat([inputs, *of_own], dim=1) / first_steps[:, None]
    size = inputs.shape[1]
    largest = torch.full((both.shape[1],), LARGEST_INPUT)
    largest[size:] = LARGEST_RESIDUAL
    weight, shift = _integers(both, first_bias.abs().amax(dim=0), largest)
    first_bias = torch.round(first_bias * torch.exp2(shift))
    own = weight[:, size:].unflatten(1, (channels, channels)).transpose(0, 1)

    # The prediction is an output more of the first layer, in steps of a location.
    predicted = _double(model.prediction).transpose(1, 2).flatten(1)
    predicted = F.pad(predicted, (0, size - predicted.shape[1]))
    predicted_own = _double(model.prediction_of_own).tril(-1)
    of_prediction, prediction_shift = _integers(
        torch.cat([predicted, predicted_own], dim=1) * LOCATION_STEPS, torch.zeros(channels), LARGEST_INPUT
    )

    middle = [
        _layer(_double(layer.weight) * before[:, None] / after[..., None], _double(layer.bias) / after)
        for layer, before, after in zip(model.middle, hidden_steps[:-1], hidden_steps[1:], strict=True)
        if isinstance(layer, PixelLayer)
    ]
    gains = torch.tensor([LOGIT_STEPS, LOCATION_STEPS * CENTRE, SCALES_AN_OCTAVE * OCTAVES])
    centres = [LOGIT_STEPS * LOGIT_CENTRE, LOCATION_STEPS * CENTRE, SCALES_AN_OCTAVE * OCTAVE_CENTRE]
    components = model.last.bias.shape[1] // 3
    gains = gains.double().repeat_interleave(components)
    last = _layer(
        _double(model.last.weight) * hidden_steps[-1][:, None] * gains[:, None],
        _double(model.last.bias) * gains + torch.tensor(centres).double().repeat_interleave(components),
    )
    return ContextNetwork(
        offsets=context_offsets(model.reach).numpy(),
        seen_weight=_array(torch.cat([weight[:, :size], of_prediction[:, :size]]), np.int16),
        own_weight=_array(torch.cat([own, of_prediction[:, None, size:]], dim=1), np.int16),
        first_bias=_array(F.pad(first_bias, (0, 1)), np.int32),
        first_shift=_array(
            torch.cat([shift.expand(channels, -1), prediction_shift[:, None]], dim=1), np.int32
        ),
        middle_weight=_stacked(
            [weight for weight, _, _ in middle], (channels, 0, model.hidden, model.hidden)
        ),
        middle_bias=_stacked([bias for _, bias, _ in middle], (channels, 0, model.hidden)),
        middle_shift=_stacked([shift for _, _, shift in middle], (channels, 0, model.hidden)),
        last_weight=last[0],
        last_bias=last[1],
        last_shift=last[2],
    )


def _hidden_ranges(model: ContextModel, levels: Levels, activations: Activations | None) -> list[Tensor]:
    """Return the range of each hidden unit (C, hidden), rectified, layer by layer."""
    ranges: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1).double()
        needed = torch.maximum(values, values * (LARGEST_UNIT / SMALLEST_UNIT))
        ranges.append(needed.amax(dim=1).unflatten(0, (model.channels, -1)).clamp(min=1e-6))

    handles = [layer.register_forward_pre_hook(note) for layer in (*model.middle, model.last)]
    with torch.inference_mode():
        model(levels, activations)
    for handle in handles:
        handle.remove()
    return ranges


def _integers(
    weight: Float[Tensor, "*channel output input"],
    bias: Float[Tensor, "*channel output"],
    largest: int | Int64[Tensor, " input"],
) -> tuple[Tensor, Tensor]:
    """Return weights of 16 bits and a shift for each output, small enough for the sums' 32 bits."""
    widest = weight.abs().amax(dim=-1).clamp(min=2.0**-16)
    reach = (weight.abs() * largest).sum(dim=-1) + bias.abs() + 0.5
    shift = torch.floor(torch.log2(torch.minimum(LARGEST_WEIGHT / widest, LARGEST_SUM / reach)))
    shift = shift.clamp(0, LARGEST_SHIFT)
    return torch.round(weight * torch.exp2(shift)[..., None]), shift


def _layer(
    weight: Float[Tensor, "channel output input"], bias: Float[Tensor, "channel output"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    integers, shift = _integers(weight, bias, LARGEST_UNIT)
    biases = torch.round(bias * torch.exp2(shift))
    return _array(integers, np.int16), _array(biases, np.int32), _array(shift, np.int32)


def _stacked(arrays: list[np.ndarray], without: tuple[int, ...]) -> np.ndarray:
    """Return arrays of each layer by channel and layer; `without` is the shape for no layers."""
    kind = np.int16 if len(without) == 4 else np.int32
    return np.stack(arrays, axis=1) if arrays else np.zeros(without, kind)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _array(tensor: Tensor, kind: type[np.signedinteger]) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy().astype(kind))
