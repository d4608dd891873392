"""Convolutions in integers: the same sums on every machine, in any batch.

Weights and activations are integers of eight bits; sums, and the stream h of residual blocks, of 32. What
follows a sum is a shift, a rectifier and a clamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Int8, Int32, Int64
from torch import Tensor

from codec.compiled import compiled

EXACT = 2**24  # float32 holds every integer up to here
LARGEST_SHIFT = 24
SMALLEST_ACTIVATION, LARGEST_ACTIVATION = -32, 223
OFFSET = 96  # activations less this fit eight signed bits
LEAK_BITS = 3  # models.vae.NEGATIVE_SLOPE is 2^−3
STREAM_BITS = 4  # h is held in sixteenths of an activation's step
Padded = Int8[np.ndarray, "batch height+2 width+2 channel"]  # activations less OFFSET, zero around them
Sums = Int32[np.ndarray, "batch height width output"]


@dataclass(frozen=True)
class Layer:
    """(a · weight + bias) · 2^−shift, rounded: a convolution (k·k·I,O), or a linear layer (I,O).

    One that enlarges the image has the outputs of each place by row, column, channel.
    """

    weight: Int8[np.ndarray, "input output"]  # a convolution's inputs by row, column, channel
    bias: Int32[np.ndarray, " output"]
    shift: Int32[np.ndarray, " output"]  # to the right; a negative one is to the left

    @cached_property
    def offset_bias(self) -> Int32[np.ndarray, " output"]:
        """The bias for activations less OFFSET."""
        return self.bias + OFFSET * self.weight.sum(axis=0, dtype=np.int32)

    @property
    def largest_sums(self) -> Int64[np.ndarray, " output"]:
        """What no sum of products and the bias exceeds, nor any part of it."""
        products = LARGEST_ACTIVATION * np.abs(self.weight.astype(np.int64)).sum(axis=0)
        return products + np.abs(self.bias.astype(np.int64)) + _half(self.shift)

    @property
    def largest_output(self) -> float:
        """What no output exceeds."""
        return float(np.max(self.largest_sums * 2.0**-self.shift)) + 1


def _half(shift: Int32[np.ndarray, " output"]) -> Int64[np.ndarray, " output"]:
    return np.where(shift > 0, 1 << np.maximum(shift.astype(np.int64) - 1, 0), 0)


def product(
    a: Int8[Tensor, "row input"], weight: Int8[np.ndarray, "input output"]
) -> Int32[Tensor, "row output"]:
    """Return a · weight."""
    if _int8_products_are_exact():
        return torch._int_mm(a, torch.from_numpy(weight))
    return (a.float() @ torch.from_numpy(weight).float()).int()


def convolved(
    a: Int8[np.ndarray, "batch height width channel"], weight: np.ndarray, kernel: int, stride: int = 1
) -> Sums:
    """Return the sums of kernel × kernel windows, none of which leaves `a`."""
    # (batch, height, width, channel, row, column)
    windows = torch.from_numpy(a).unfold(1, kernel, stride).unfold(2, kernel, stride)
    batch, height, width = windows.shape[:3]
    columns = windows.permute(0, 1, 2, 4, 5, 3).reshape(batch * height * width, -1)
    return product(columns, weight).numpy().reshape(batch, height, width, -1)


@cache
def _int8_products_are_exact() -> bool:
    """Try the largest sums: instructions before VNNI add pairs of products in 16 bits, and saturate."""
    a = torch.full((32, 64), 127, dtype=torch.int8)
    b = torch.full((64, 32), 127, dtype=torch.int8)
    b[:, ::2] = -127
    return torch.equal(torch._int_mm(a, b).double(), a.double() @ b.double())


@compiled
def shifted(total: int, shift: int) -> int:
    """Return total · 2^−shift, rounded to the nearest, halves up."""
    return (total + (1 << (shift - 1))) >> shift if shift > 0 else total << -shift


@compiled
def _activation(total: int, shift: int) -> int:
    if total < 0:
        shift += LEAK_BITS
    return min(max(shifted(total, shift), SMALLEST_ACTIVATION), LARGEST_ACTIVATION)


@compiled
def activations(sums: np.ndarray, bias: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return (sums + bias) · 2^−shift, rectified: padded activations."""
    batch, height, width, channels = sums.shape
    a = np.full((batch, height + 2, width + 2, channels), -OFFSET, np.int8)
    for n in range(batch):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    a[n, y + 1, x + 1, c] = _activation(sums[n, y, x, c] + bias[c], shift[c]) - OFFSET
    return a


def rectified(h: np.ndarray) -> np.ndarray:
    """Return the padded activations of a stream."""
    channels = h.shape[3]
    return activations(h, np.zeros(channels, np.int32), np.full(channels, STREAM_BITS, np.int32))


@compiled
def added(h: np.ndarray, sums: np.ndarray, bias: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Add a block's output to h in place, and return the new h's padded activations."""
    batch, height, width, channels = h.shape
    a = np.full((batch, height + 2, width + 2, channels), -OFFSET, np.int8)
    for n in range(batch):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    h[n, y, x, c] += shifted(sums[n, y, x, c] + bias[c], shift[c])
                    a[n, y + 1, x + 1, c] = _activation(h[n, y, x, c], STREAM_BITS) - OFFSET
    return a


@compiled
def enlarged(
    sums: np.ndarray, bias: np.ndarray, shift: np.ndarray, rows: int, columns: int, height: int, width: int
) -> np.ndarray:
    """Return h (B,height,width,C): each place of `sums` gives rows × columns, cropped."""
    channels = sums.shape[3] // (rows * columns)
    h = np.empty((len(sums), height, width, channels), np.int32)
    for n in range(len(sums)):
        for y in range(height):
            for x in range(width):
                first = (y % rows * columns + x % columns) * channels
                for c in range(channels):
                    total = sums[n, y // rows, x // columns, first + c] + bias[first + c]
                    h[n, y, x, c] = shifted(total, shift[first + c])
    return h
