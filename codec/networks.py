"""A convolutional VAE's two halves in integers.

    levels (B,C,H,W) ─► halved ─► h ─► residual blocks ─► a ─► halved ─► … ─► a ─► linear ─► k (B,D)
    k (B,D) ─► linear ─► h ─► residual blocks ─► a ─► doubled ─► h ─► … ─► features (B,H,W,F)
                                                                        └► levels (B,C,H,W)

Latents, features and levels are the same for any batch, on any machine, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int8, Int16, Int32, UInt8

from codec.integer import (
    EXACT,
    LARGEST_SHIFT,
    OFFSET,
    STREAM_BITS,
    Layer,
    Padded,
    Sums,
    activations,
    added,
    convolved,
    enlarged,
    product,
    rectified,
)

CENTRE = 128  # levels less this fit eight signed bits
LARGEST_LATENT = 127  # of |k|
FINER_BITS = 3  # z is in 2^−FINER_BITS of the steps of k
LARGEST_FINER = LARGEST_LATENT << FINER_BITS  # of |z|
IMAGES = 32  # that run at once: their windows stay in the cache
Levels = UInt8[np.ndarray, "batch channel height width"]
Latents = Int8[np.ndarray, "batch latent"]
FinerLatents = Int16[np.ndarray, "batch latent"]
Features = Int16[np.ndarray, "batch height width feature"]
Blocks = tuple[tuple[Layer, Layer], ...]


@dataclass(frozen=True)
class Halving:
    """A convolution that halves the image, and the residual blocks of the new size."""

    convolution: Layer
    blocks: Blocks


@dataclass(frozen=True)
class IntegerEncoder:
    """An encoder that gives each latent's mean in steps, rounded."""

    stages: tuple[Halving, ...]
    linear: Layer
    padding: int  # what is around an image, less CENTRE

    def latents(self, levels: Levels) -> Latents:
        """Return k, |k| ≤ 127, of images."""
        return self._batch_by_batch(levels, self.linear).clip(-LARGEST_LATENT, LARGEST_LATENT).astype(np.int8)

    def finer_latents(self, levels: Levels) -> FinerLatents:
        """Return z, |z| ≤ 1016, of images: k in shorter steps."""
        linear = replace(self.linear, shift=self.linear.shift - np.int32(FINER_BITS))
        return self._batch_by_batch(levels, linear).clip(-LARGEST_FINER, LARGEST_FINER).astype(np.int16)

    def _batch_by_batch(self, levels: Levels, linear: Layer) -> Int32[np.ndarray, "batch latent"]:
        parts = [self._latents(levels[i : i + IMAGES], linear) for i in range(0, len(levels), IMAGES)]
        return np.concatenate(parts)

    def _latents(self, levels: Levels, linear: Layer) -> Int32[np.ndarray, "batch latent"]:
        margins = ((0, 0), (2, 2), (2, 2), (0, 0))
        centred = (levels.transpose(0, 2, 3, 1) ^ np.uint8(CENTRE)).view(np.int8)
        a = np.pad(centred, margins, constant_values=self.padding)
        for s, stage in enumerate(self.stages):
            halving = stage.convolution
            sums = convolved(a, halving.weight, 3 if s else 5, stride=2)
            bias = halving.offset_bias if s else halving.bias
            h = enlarged(sums, bias, halving.shift, 1, 1, *sums.shape[1:3])
            a = _with_blocks(h, stage.blocks)
        inside = np.ascontiguousarray(a[:, 1:-1, 1:-1]).reshape(len(a), -1)
        k = enlarged(_linear_sums(inside, linear), linear.offset_bias, linear.shift, 1, 1, 1, 1)
        return k.reshape(len(k), -1)

    def layers(self) -> dict[str, Layer]:
        """Return every layer by its name."""
        return _named_stages(self.stages) | {"linear": self.linear}

    def faults(self) -> list[str]:
        """Return where a sum might exceed 2^24, or the stream h its 32 bits."""
        streams = [(stage.convolution, stage.blocks) for stage in self.stages]
        return _sum_faults("encoder", self.layers()) + _stream_faults("encoder", streams)


@dataclass(frozen=True)
class Doubling:
    """Residual blocks of one size, and the convolution that doubles it."""

    blocks: Blocks
    convolution: Layer


@dataclass(frozen=True)
class IntegerDecoder:
    """A decoder, whose last layer gives features, or levels, instead of a likelihood's parameters."""

    linear: Layer
    stages: tuple[Doubling, ...]
    sizes: tuple[tuple[int, int], ...]  # height and width, of the first stage to the image

    def features(self, k: Latents) -> Features:
        """Return each pixel's features, activations they are, of integer latents."""
        every = (k[i : i + IMAGES] for i in range(0, len(k), IMAGES))
        parts = [rectified(self._stream(_linear_sums(part, self.linear))) for part in every]
        return np.concatenate(parts)[:, 1:-1, 1:-1].astype(np.int16) + OFFSET

    def levels(self, z: FinerLatents) -> Levels:
        """Return the images of integer latents in shorter steps."""
        every = (z[i : i + IMAGES] for i in range(0, len(z), IMAGES))
        parts = [_rounded_levels(self._stream(_wide_linear_sums(part, self.linear))) for part in every]
        return np.concatenate(parts)

    def _stream(self, sums: Sums) -> np.ndarray:
        h = enlarged(sums, self.linear.bias, self.linear.shift, *self.sizes[0], *self.sizes[0])
        for stage, (height, width) in zip(self.stages, self.sizes[1:], strict=True):
            a = _with_blocks(h, stage.blocks)
            doubling = stage.convolution
            h = enlarged(
                convolved(a, doubling.weight, 3), doubling.offset_bias, doubling.shift, 2, 2, height, width
            )
        return h

    def layers(self) -> dict[str, Layer]:
        """Return every layer by its name."""
        return {"linear": self.linear} | _named_stages(self.stages)

    def faults(self, part: str) -> list[str]:
        """Return where a sum might exceed 2^24, or the stream h its 32 bits."""
        starts = [self.linear, *(stage.convolution for stage in self.stages)]
        blocks: list[Blocks] = [*(stage.blocks for stage in self.stages), ()]
        streams = list(zip(starts, blocks, strict=True))
        return _sum_faults(part, self.layers()) + _stream_faults(part, streams)


def _rounded_levels(h: np.ndarray) -> Levels:
    rounded = h + (1 << STREAM_BITS - 1) >> STREAM_BITS
    return np.ascontiguousarray(rounded.clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2))


def _linear_sums(a: Int8[np.ndarray, "batch input"], layer: Layer) -> Sums:
    return product(torch.from_numpy(a), layer.weight).numpy()[:, None, None]


def _wide_linear_sums(z: FinerLatents, layer: Layer) -> Sums:
    # Below 2^24 for activations, so below 2^27 for these: exact in doubles, in any order.
    sums = z.astype(np.float64) @ layer.weight.astype(np.float64)
    return sums.astype(np.int32)[:, None, None]


def _with_blocks(h: np.ndarray, blocks: Blocks) -> Padded:
    """Add the blocks to h in place, and return its activations."""
    a = rectified(h)
    for first, second in blocks:
        inner = activations(convolved(a, first.weight, 3), first.offset_bias, first.shift)
        a = added(h, convolved(inner, second.weight, 3), second.offset_bias, second.shift)
    return a


def _named_stages(stages: Sequence[Halving | Doubling]) -> dict[str, Layer]:
    layers = {}
    for s, stage in enumerate(stages):
        layers[f"stages.{s}.convolution"] = stage.convolution
        for b, (first, second) in enumerate(stage.blocks):
            layers |= {f"stages.{s}.blocks.{b}.first": first, f"stages.{s}.blocks.{b}.second": second}
    return layers


def _sum_faults(part: str, layers: dict[str, Layer]) -> list[str]:
    faults = []
    for name, layer in layers.items():
        if not ((layer.shift >= -LARGEST_SHIFT) & (layer.shift <= LARGEST_SHIFT)).all():
            faults.append(f"{part}.{name}: a shift is outside ±{LARGEST_SHIFT}")
        elif layer.largest_sums.max() > EXACT:
            faults.append(f"{part}.{name}: a sum may reach {layer.largest_sums.max()}, above 2^24")
    return faults


def _stream_faults(part: str, streams: Iterable[tuple[Layer, Blocks]]) -> list[str]:
    reaches = [
        sum(layer.largest_output for layer in (start, *(b for _, b in blocks))) for start, blocks in streams
    ]
    return [
        f"{part}: h of stage {s} may reach {reach:.0f}, above 2^31"
        for s, reach in enumerate(reaches)
        if reach >= 2**31
    ]
